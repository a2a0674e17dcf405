/* Memory: the runtime's allocations, the driver's virtual memory management, copies. */
#define _GNU_SOURCE
#include "device.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static uint64_t granules(uint64_t bytes) { return (bytes + GRANULE - 1) / GRANULE * GRANULE; }

EXPORT int cudaMalloc(void **pointer, size_t bytes) {
  int device = current_device();
  ensure_context(device);
  *pointer = NULL;
  if (!bytes) return OK;
  if (charge(device, granules(bytes))) return set_error(ERR_OUT_OF_MEMORY);
  uint64_t address = reserve_address(device, bytes, GRANULE, 0);
  if (!address) {
    uncharge(device, granules(bytes));
    return set_error(ERR_OUT_OF_MEMORY);
  }
  *pointer = (void *)address;
  return OK;
}

EXPORT int cudaFree(void *pointer) {
  if (!pointer) {
    ensure_context(current_device());
    return OK;
  }
  int device = device_of(pointer);
  uint64_t bytes;
  if (device < 0 || release_address(device, (uint64_t)pointer, &bytes)) return set_error(ERR_INVALID_VALUE);
  uncharge(device, bytes);
  synchronize_all(); /* cudaFree waits for the device */
  return OK;
}
EXPORT int cudaMallocAsync(void **pointer, size_t bytes, void *stream) {
  note_work(stream);
  return cudaMalloc(pointer, bytes);
}
EXPORT int cudaFreeAsync(void *pointer, void *stream) {
  note_work(stream);
  int device = device_of(pointer);
  uint64_t bytes;
  if (!pointer) return OK;
  if (device < 0 || release_address(device, (uint64_t)pointer, &bytes)) return set_error(ERR_INVALID_VALUE);
  uncharge(device, bytes);
  return OK;
}
EXPORT int cudaMallocManaged(void **pointer, size_t bytes, unsigned flags) {
  (void)flags;
  return cudaMalloc(pointer, bytes);
}
EXPORT int cudaMemGetInfo(size_t *free, size_t *total) {
  int device = current_device();
  ensure_context(device);
  *free = free_bytes(device);
  *total = shared->devices[device].total_bytes;
  return OK;
}

/* ---- pinned host memory: ordinary memory, known by its address ---- */

static struct pinned {
  uint64_t start, bytes;
  int owned;
} *pinned_items;
static size_t pinned_count, pinned_capacity;

static int pin(void *pointer, size_t bytes, int owned) {
  lock_process();
  if (pinned_count == pinned_capacity) {
    pinned_capacity = pinned_capacity ? 2 * pinned_capacity : 64;
    pinned_items = realloc(pinned_items, pinned_capacity * sizeof *pinned_items);
  }
  pinned_items[pinned_count++] = (struct pinned){(uint64_t)pointer, bytes, owned};
  unlock_process();
  return OK;
}
static int unpin(void *pointer, int owned) {
  int found = 0;
  lock_process();
  for (size_t i = 0; i < pinned_count; i++)
    if (pinned_items[i].start == (uint64_t)pointer && pinned_items[i].owned == owned) {
      pinned_items[i] = pinned_items[--pinned_count];
      found = 1;
      break;
    }
  unlock_process();
  if (!found) return set_error(ERR_INVALID_VALUE);
  if (owned) free(pointer);
  return OK;
}
static int is_pinned(const void *pointer) {
  int found = 0;
  lock_process();
  for (size_t i = 0; i < pinned_count && !found; i++)
    found = (uint64_t)pointer - pinned_items[i].start < pinned_items[i].bytes;
  unlock_process();
  return found;
}
EXPORT int cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) {
  (void)flags;
  ensure_context(current_device());
  if (posix_memalign(pointer, 4096, bytes ? bytes : 1)) return set_error(ERR_OUT_OF_MEMORY);
  return pin(*pointer, bytes, 1);
}
EXPORT int cudaMallocHost(void **pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }
EXPORT int cudaFreeHost(void *pointer) { return pointer ? unpin(pointer, 1) : OK; }
EXPORT int cudaHostRegister(void *pointer, size_t bytes, unsigned flags) {
  (void)flags;
  ensure_context(current_device());
  return pin(pointer, bytes, 0);
}
EXPORT int cudaHostUnregister(void *pointer) { return unpin(pointer, 0); }
EXPORT int cudaHostGetDevicePointer(void **device_pointer, void *host, unsigned flags) {
  (void)flags;
  *device_pointer = host;
  return OK;
}

struct pointer_attributes {
  int type, device; /* 0 unregistered, 1 host, 2 device */
  void *device_pointer, *host_pointer;
};
EXPORT int cudaPointerGetAttributes(struct pointer_attributes *attributes, const void *pointer) {
  device_init();
  int device = device_of(pointer);
  attributes->type = device >= 0 ? 2 : is_pinned(pointer) ? 1 : 0;
  attributes->device = device >= 0 ? logical(device) : attributes->type == 1 ? logical(current_device()) : -2;
  attributes->device_pointer = attributes->type ? (void *)pointer : NULL;
  attributes->host_pointer = attributes->type == 2 ? NULL : (void *)pointer;
  return OK;
}

/* ---- copies ---- */

/* An operation whose result has as many elements as a kernel counted (nonzero, unique) copies that count to the host
 * and allocates by it. The rehearsed process computes the count beforehand and leaves it here for the next such copy. */
static __thread int answer_pending;
static __thread int64_t answer;
EXPORT void oomdoctor_answer(int64_t value, int pending) {
  answer = value;
  answer_pending = pending;
}

/* Device memory is host memory that is committed when it is written. Small values must be right, since programs read
 * them back; writing large ones would need as much memory as the devices have. Reading costs nothing but time. */
int copy_memory(void *destination, const void *source, size_t bytes, void *stream) {
  int capturing = is_capturing(stream);
  note_work(stream);
  if (!bytes || capturing) return OK;
  int to_device = device_of(destination) >= 0, from_device = device_of(source) >= 0;
  if (answer_pending && from_device && !to_device && (bytes == 4 || bytes == 8)) {
    memcpy(destination, &answer, bytes);
    return OK;
  }
  if (to_device && bytes > shared->copy_bound_bytes) return OK;
  if (from_device && !to_device && bytes > 64 * shared->copy_bound_bytes) return OK;
  memmove(destination, source, bytes);
  return OK;
}
EXPORT int cudaMemcpy(void *destination, const void *source, size_t bytes, int kind) {
  (void)kind;
  ensure_context(current_device());
  return copy_memory(destination, source, bytes, NULL);
}
EXPORT int cudaMemcpyAsync(void *destination, const void *source, size_t bytes, int kind, void *stream) {
  (void)kind;
  ensure_context(current_device());
  return copy_memory(destination, source, bytes, stream);
}
EXPORT int cudaMemcpyPeerAsync(void *destination, int to, const void *source, int from, size_t bytes, void *stream) {
  ensure_context(physical(to));
  ensure_context(physical(from));
  return copy_memory(destination, source, bytes, stream);
}
EXPORT int cudaMemcpy2DAsync(void *destination, size_t to_pitch, const void *source, size_t from_pitch, size_t width,
                             size_t height, int kind, void *stream) {
  (void)kind;
  for (size_t row = 0; row < height && width * height <= shared->copy_bound_bytes; row++)
    copy_memory((char *)destination + row * to_pitch, (const char *)source + row * from_pitch, width, stream);
  return OK;
}
EXPORT int cudaMemcpyToSymbol(const void *symbol, const void *source, size_t bytes, size_t offset, int kind) {
  (void)symbol, (void)source, (void)bytes, (void)offset, (void)kind;
  return OK;
}
static int set_memory(void *pointer, int value, size_t bytes, void *stream) {
  int capturing = is_capturing(stream);
  note_work(stream);
  if (capturing || !bytes) return OK;
  if (device_of(pointer) < 0 || bytes <= shared->copy_bound_bytes) {
    memset(pointer, value, bytes);
  } else if (value == 0) { /* dropped pages read as zeros, and cost nothing */
    uint64_t start = (uint64_t)pointer, first = (start + 4095) & ~4095ull, end = (start + bytes) & ~4095ull;
    memset(pointer, 0, first - start);
    madvise((void *)first, end - first, MADV_DONTNEED);
    memset((void *)end, 0, start + bytes - end);
  }
  return OK;
}
EXPORT int cudaMemset(void *pointer, int value, size_t bytes) { return set_memory(pointer, value, bytes, NULL); }
EXPORT int cudaMemsetAsync(void *pointer, int value, size_t bytes, void *stream) {
  return set_memory(pointer, value, bytes, stream);
}
EXPORT int cuMemsetD32Async(uint64_t pointer, unsigned value, size_t count, void *stream) {
  note_work(stream);
  if (4 * count <= shared->copy_bound_bytes)
    for (size_t i = 0; i < count; i++) ((unsigned *)pointer)[i] = value;
  return OK;
}
EXPORT int cuStreamWriteValue32(void *stream, uint64_t pointer, unsigned value, unsigned flags) {
  (void)flags;
  note_work(stream);
  *(unsigned *)pointer = value;
  return OK;
}

/* ---- virtual memory management (expandable segments) ---- */

struct physical { /* CUmemGenericAllocationHandle points to one */
  uint64_t bytes;
  int device;
  int references; /* the handle, and each mapping: memory is free when both are gone */
};
struct allocation_properties {
  int type, handle_types, location_type, location_id;
};
static struct mapping {
  uint64_t start, bytes;
  struct physical *memory;
} *mappings;
static size_t mapping_count, mapping_capacity;

static void drop(struct physical *memory) {
  if (--memory->references == 0) {
    uncharge(memory->device, memory->bytes);
    free(memory);
  }
}
EXPORT int cuMemGetAllocationGranularity(size_t *granularity, const void *properties, int option) {
  (void)properties, (void)option;
  *granularity = GRANULE;
  return OK;
}
EXPORT int cuMemAddressReserve(uint64_t *address, size_t bytes, size_t alignment, uint64_t hint, uint64_t flags) {
  (void)hint, (void)flags;
  int device = current_device();
  *address = reserve_address(device, bytes, alignment, 1);
  return *address ? OK : ERR_OUT_OF_MEMORY;
}
EXPORT int cuMemAddressFree(uint64_t address, size_t bytes) {
  uint64_t had;
  (void)bytes;
  int device = device_of((void *)address);
  return device < 0 ? ERR_INVALID_VALUE : release_address(device, address, &had);
}
EXPORT int cuMemCreate(struct physical **handle, size_t bytes, const struct allocation_properties *properties,
                       uint64_t flags) {
  (void)flags;
  device_init();
  int device = physical(properties->location_id);
  if (bytes % GRANULE || device < 0) return ERR_INVALID_VALUE;
  ensure_context(device);
  if (charge(device, bytes)) return ERR_OUT_OF_MEMORY;
  struct physical *memory = malloc(sizeof *memory);
  *memory = (struct physical){bytes, device, 1};
  *handle = memory;
  return OK;
}
EXPORT int cuMemRelease(struct physical *handle) {
  lock_process();
  drop(handle);
  unlock_process();
  return OK;
}
EXPORT int cuMemMap(uint64_t address, size_t bytes, size_t offset, struct physical *handle, uint64_t flags) {
  (void)offset, (void)flags;
  lock_process();
  if (mapping_count == mapping_capacity) {
    mapping_capacity = mapping_capacity ? 2 * mapping_capacity : 1024;
    mappings = realloc(mappings, mapping_capacity * sizeof *mappings);
  }
  size_t at = mapping_count;
  while (at && mappings[at - 1].start > address) at--;
  memmove(mappings + at + 1, mappings + at, (mapping_count - at) * sizeof *mappings);
  mappings[at] = (struct mapping){address, bytes, handle};
  mapping_count++;
  handle->references++;
  unlock_process();
  return OK;
}
EXPORT int cuMemUnmap(uint64_t address, size_t bytes) {
  lock_process();
  size_t kept = 0, first = 0;
  while (first < mapping_count && mappings[first].start < address) first++;
  for (kept = first; first < mapping_count; first++) {
    if (mappings[first].start < address + bytes) drop(mappings[first].memory);
    else mappings[kept++] = mappings[first];
  }
  mapping_count = kept;
  unlock_process();
  madvise((void *)address, bytes, MADV_DONTNEED);
  return OK;
}
EXPORT int cuMemSetAccess(uint64_t address, size_t bytes, const void *descriptors, size_t count) {
  (void)address, (void)bytes, (void)descriptors, (void)count;
  return OK;
}
EXPORT int cuMemRetainAllocationHandle(struct physical **handle, void *address) {
  int error = ERR_INVALID_VALUE;
  lock_process();
  for (size_t i = 0; i < mapping_count && error; i++)
    if ((uint64_t)address - mappings[i].start < mappings[i].bytes) {
      *handle = mappings[i].memory;
      (*handle)->references++;
      error = OK;
    }
  unlock_process();
  return error;
}
EXPORT int cuMemGetAllocationPropertiesFromHandle(struct allocation_properties *properties, struct physical *handle) {
  memset(properties, 0, 32);
  properties->type = properties->location_type = 1;
  properties->location_id = logical(handle->device);
  return OK;
}
