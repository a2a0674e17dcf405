/* Which addresses device memory gets: rising, falling or at random, in one range a device. The lower half of a
 * device's span is for cudaMalloc, the upper for cuMemAddressReserve. */
#define _GNU_SOURCE
#include "device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { RISING, FALLING, RANDOM };

struct extent {
  uint64_t start, bytes;
};
static struct range { /* half a device's span, with what is taken of it, by address */
  struct extent *items;
  size_t count, capacity;
  uint64_t passed; /* where fresh addresses begin (rising) or end (falling); 0: none was handed out yet */
} ranges[MAX_DEVICES][2];
static uint64_t random_state;

static uint64_t next_random(void) { /* splitmix64 */
  uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static uint64_t round_down(uint64_t value, uint64_t to) { return value / to * to; }
static uint64_t round_up(uint64_t value, uint64_t to) { return round_down(value + to - 1, to); }
static uint64_t end_of(const struct extent *item) { return item->start + item->bytes; }

/* The index of the first extent at or above ADDRESS. */
static size_t find(const struct range *range, uint64_t address) {
  size_t low = 0, high = range->count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (range->items[middle].start < address) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* The lowest gap in [FROM, LIMIT) that holds BYTES; 0: there is none. */
static uint64_t lowest(const struct range *range, uint64_t from, uint64_t limit, uint64_t bytes, uint64_t alignment) {
  size_t at = find(range, from);
  if (at && end_of(&range->items[at - 1]) > from) from = end_of(&range->items[at - 1]);
  for (;; at++) {
    uint64_t ceiling = at < range->count ? range->items[at].start : limit, start = round_up(from, alignment);
    if (start + bytes <= ceiling) return start;
    if (at >= range->count) return 0;
    from = end_of(&range->items[at]);
  }
}

/* The highest gap in [BASE, BELOW) that holds BYTES; 0: there is none. */
static uint64_t highest(const struct range *range, uint64_t base, uint64_t below, uint64_t bytes, uint64_t alignment) {
  for (size_t at = find(range, below);; at--) {
    uint64_t floor = at ? end_of(&range->items[at - 1]) : base;
    if (below >= floor + bytes && round_down(below - bytes, alignment) >= floor)
      return round_down(below - bytes, alignment);
    if (!at) return 0;
    below = range->items[at - 1].start;
  }
}

/* Anywhere in WINDOW bytes from BASE that is not taken; 0: not found in many tries. */
static uint64_t anywhere(const struct range *range, uint64_t base, uint64_t window, uint64_t bytes, uint64_t alignment) {
  for (int tries = 0; tries < 10000 && bytes <= window; tries++) {
    uint64_t start = round_up(base + next_random() % (window / GRANULE) * GRANULE, alignment);
    size_t at = find(range, start);
    if (start + bytes <= base + window && (at == 0 || end_of(&range->items[at - 1]) <= start) &&
        (at == range->count || start + bytes <= range->items[at].start))
      return start;
  }
  return 0;
}

static uint64_t choose(struct range *range, int device, int virtual_memory, uint64_t bytes, uint64_t alignment) {
  uint64_t half = device_span / 2, base = device_base + device * device_span + (virtual_memory ? half : 0);
  uint64_t start = 0;
  if (shared->address_order == RANDOM) {
    /* Memory lies in the first 64 times the device's, so that neighbours touch now and then. Reservations are as
     * large as the device each, and need the whole half. */
    uint64_t window = round_up(64 * shared->devices[device].total_bytes, GRANULE);
    start = anywhere(range, base, virtual_memory || window > half ? half : window, bytes, alignment);
  } else if (shared->address_order == FALLING) {
    if (shared->fresh_addresses && range->passed) start = highest(range, base, range->passed, bytes, alignment);
    if (!start) start = highest(range, base, base + half, bytes, alignment);
    range->passed = start;
    return start;
  }
  /* A fresh address is one that no earlier extent had, until the range is used up. */
  if (!start && shared->fresh_addresses && range->passed)
    start = lowest(range, range->passed, base + half, bytes, alignment);
  if (!start) start = lowest(range, base, base + half, bytes, alignment);
  range->passed = start ? start + bytes : 0;
  return start;
}

uint64_t reserve_address(int device, uint64_t bytes, uint64_t alignment, int virtual_memory) {
  struct range *range = &ranges[device][virtual_memory];
  bytes = round_up(bytes, GRANULE);
  if (alignment < GRANULE) alignment = GRANULE;
  lock_process();
  if (!random_state) random_state = shared->seed + 1;
  uint64_t start = choose(range, device, virtual_memory, bytes, alignment);
  if (start) {
    if (range->count == range->capacity) {
      range->capacity = range->capacity ? 2 * range->capacity : 1024;
      range->items = realloc(range->items, range->capacity * sizeof *range->items);
    }
    size_t at = find(range, start);
    memmove(range->items + at + 1, range->items + at, (range->count - at) * sizeof *range->items);
    range->items[at] = (struct extent){start, bytes};
    range->count++;
  }
  unlock_process();
  return start;
}

/* Gives the pages back to the host as well. OK, or ERR_INVALID_VALUE where ADDRESS starts nothing. */
int release_address(int device, uint64_t address, uint64_t *bytes) {
  int error = ERR_INVALID_VALUE;
  lock_process();
  for (int kind = 0; kind < 2 && error; kind++) {
    struct range *range = &ranges[device][kind];
    size_t at = find(range, address);
    if (at < range->count && range->items[at].start == address) {
      *bytes = range->items[at].bytes;
      memmove(range->items + at, range->items + at + 1, (range->count - at - 1) * sizeof *range->items);
      range->count--;
      error = OK;
    }
  }
  unlock_process();
  if (!error) madvise((void *)address, *bytes, MADV_DONTNEED);
  return error;
}

/* For a program that tries several policies in one process: from here on, as if the process had just started. */
EXPORT void oomdoctor_set_addresses(uint32_t order, uint32_t fresh, uint64_t seed) {
  device_init();
  lock_process();
  shared->address_order = order;
  shared->fresh_addresses = fresh;
  shared->seed = seed;
  random_state = 0;
  for (int device = 0; device < MAX_DEVICES; device++) ranges[device][0].passed = ranges[device][1].passed = 0;
  unlock_process();
}
/* How many reservations there are: a program may want to know that it left none. */
EXPORT uint64_t oomdoctor_reservations(int device) {
  device = physical(device);
  return device < 0 ? 0 : ranges[device][1].count;
}
