/* The state shared by processes, the accounts, and the errors. */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct shared_state *shared;

/* One range a device, at the same place in every run. 16 to 80 TiB lies below where Linux puts executables and
 * libraries on x86-64 (85 TiB and above) and inside the 47 bits of a user's address space. */
#define TIB (1ull << 40)
const uint64_t device_base = 16 * TIB;
const uint64_t device_span_limit = 64 * TIB;
uint64_t device_span;
#define ARENA_BASE (15 * TIB)
#define ARENA_BYTES (1ull << 30)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct process_state *mine;
static int contexts[MAX_DEVICES];
static uint64_t arena_used;
static __thread int device_now;
static __thread int last_error;

void say(const char *format, ...) {
  char line[512];
  va_list args;
  va_start(args, format);
  int n = snprintf(line, sizeof line, "oomdoctor: emulated device: ");
  vsnprintf(line + n, sizeof line - n - 1, format, args);
  va_end(args);
  strcat(line, "\n");
  ssize_t ignored = write(2, line, strlen(line));
  (void)ignored;
}

static void fatal(const char *what, const char *next) {
  say("%s: %s. %s", what, strerror(errno), next);
  _exit(70);
}

void lock_process(void) { pthread_mutex_lock(&mutex); }
void unlock_process(void) { pthread_mutex_unlock(&mutex); }

/* A lock over processes whose holder may be killed: it holds the pid, and a dead holder's lock is taken over. */
static void lock_shared(void) {
  uint32_t me = (uint32_t)getpid(), expected = 0;
  while (!__atomic_compare_exchange_n(&shared->lock, &expected, me, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
    if (expected && kill((pid_t)expected, 0) < 0 && errno == ESRCH)
      __atomic_compare_exchange_n(&shared->lock, &expected, 0, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    expected = 0;
    sched_yield();
  }
}
static void unlock_shared(void) { __atomic_store_n(&shared->lock, 0, __ATOMIC_RELEASE); }

static int is_dead(uint32_t pid) { return kill((pid_t)pid, 0) < 0 && errno == ESRCH; }

/* Under the shared lock: this process's row, made on first use. Rows of dead processes are free memory again. */
static struct process_state *my_row(void) {
  uint32_t me = (uint32_t)getpid();
  if (mine && mine->pid == me) return mine;
  struct process_state *empty = NULL;
  for (int i = 0; i < MAX_PROCESSES; i++) {
    struct process_state *row = &shared->processes[i];
    /* Before this process has a row, one with its pid is that of a dead process whose number was given again. */
    if (row->pid && (row->pid == me || is_dead(row->pid))) memset(row, 0, sizeof *row);
    if (!row->pid && !empty) empty = row;
  }
  if (!empty) {
    errno = ENOSPC;
    fatal("more than 256 processes use the emulated devices", "Start fewer processes.");
  }
  empty->pid = me;
  return mine = empty;
}

static void leave(void) {
  if (!shared || !mine || mine->pid != (uint32_t)getpid()) return;
  lock_shared();
  memset(mine, 0, sizeof *mine);
  unlock_shared();
}

static void map_range(uint64_t base, uint64_t bytes) {
  void *got = mmap((void *)base, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got == MAP_FAILED || got != (void *)base)
    fatal("cannot reserve address space for device memory",
          "Lift the limit on address space (ulimit -v), or vm.overcommit_memory=2.");
  madvise(got, bytes, MADV_NOHUGEPAGE); /* touching one byte must not commit 2 MiB */
  madvise(got, bytes, MADV_DONTDUMP);
}

/* A forked child has no context and no memory of its own yet. Real CUDA does not survive a fork either. */
static void after_fork(void) {
  pthread_mutex_init(&mutex, NULL);
  mine = NULL;
  memset(contexts, 0, sizeof contexts);
}

static void read_visible(void);
static void init_once(void) {
  const char *path = getenv("OOMDOCTOR_EMULATED_STATE");
  if (!path) {
    errno = ENOENT;
    fatal("OOMDOCTOR_EMULATED_STATE is not set", "Start the program with `oomdoctor rehearse`.");
  }
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) fatal(path, "The rehearsal that this process belonged to is over.");
  struct shared_state *state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (state == MAP_FAILED) fatal("cannot map the device state", "Is the disk of the temporary folder full?");
  if (memcmp(state->magic, "oomdev1", 8) != 0) {
    errno = EINVAL;
    fatal(path, "It was made by another version of oomdoctor.");
  }
  uint32_t n = state->num_devices ? state->num_devices : 1;
  device_span = device_span_limit / n;
  if (device_span > 16 * TIB) device_span = 16 * TIB;
  for (uint32_t i = 0; i < state->num_devices; i++) map_range(device_base + i * device_span, device_span);
  map_range(ARENA_BASE, ARENA_BYTES);
  pthread_atfork(NULL, NULL, after_fork);
  atexit(leave);
  shared = state;
  read_visible();
}

void device_init(void) { pthread_once(&once, init_once); }

void *arena_alloc(size_t bytes) {
  uint64_t offset = __atomic_fetch_add(&arena_used, (bytes + 63) & ~63ull, __ATOMIC_RELAXED);
  if (offset + bytes > ARENA_BYTES) {
    errno = ENOMEM;
    fatal("too many streams, events and graphs", "Report this, with what the program does.");
  }
  return (void *)(ARENA_BASE + offset);
}

int device_of(const void *pointer) {
  uint64_t address = (uint64_t)pointer;
  if (!shared || address < device_base || address >= device_base + shared->num_devices * device_span) return -1;
  return (int)((address - device_base) / device_span);
}

int set_error(int error) {
  if (error != OK && error != ERR_NOT_READY) last_error = error;
  return error;
}

/* CUDA_VISIBLE_DEVICES: the program's device 0 is the first that it names. Reading stops at the first that there is
 * not, as the driver's does. */
static int visible[MAX_DEVICES], num_visible;
static void read_visible(void) {
  extern void nvml_uuid_text(int device, char *text, unsigned length);
  const char *names = getenv("CUDA_VISIBLE_DEVICES");
  num_visible = 0;
  if (!names) {
    for (num_visible = 0; num_visible < (int)shared->num_devices; num_visible++) visible[num_visible] = num_visible;
    return;
  }
  while (*names && num_visible < MAX_DEVICES) {
    char word[128], uuid[96], *end;
    size_t length = strcspn(names, ",");
    snprintf(word, sizeof word, "%.*s", (int)length, names);
    long number = strtol(word, &end, 10);
    if (end == word || *end) {
      for (number = 0; number < shared->num_devices; number++) {
        nvml_uuid_text((int)number, uuid, sizeof uuid);
        if (word[0] && strncmp(uuid, word, strlen(word)) == 0) break;
      }
    }
    if (number < 0 || number >= shared->num_devices) break;
    visible[num_visible++] = (int)number;
    names += length + (names[length] == ',');
  }
}
int visible_count(void) {
  device_init();
  return num_visible;
}
int physical(int device) {
  device_init();
  return device >= 0 && device < num_visible ? visible[device] : -1;
}
int logical(int device) {
  for (int i = 0; i < num_visible; i++)
    if (visible[i] == device) return i;
  return -1;
}
int current_device(void) {
  int device = physical(device_now);
  return device < 0 ? 0 : device;
}

int has_context(int device) { return contexts[device]; }

void ensure_context(int device) {
  device_init();
  if (device < 0 || device >= (int)shared->num_devices || contexts[device]) return;
  lock_shared();
  if (!contexts[device]) {
    contexts[device] = 1;
    my_row()->used_bytes[device] += shared->devices[device].context_bytes;
  }
  unlock_shared();
}

/* Under the shared lock or for display: what all living processes use. */
uint64_t used_by_all(int device) {
  uint64_t used = shared->devices[device].other_bytes;
  for (int i = 0; i < MAX_PROCESSES; i++)
    if (shared->processes[i].pid && !is_dead(shared->processes[i].pid))
      used += shared->processes[i].used_bytes[device];
  return used;
}

uint64_t free_bytes(int device) {
  uint64_t used = used_by_all(device), total = shared->devices[device].total_bytes;
  return used < total ? total - used : 0;
}

int charge(int device, uint64_t bytes) {
  lock_shared();
  int error = bytes > free_bytes(device) ? ERR_OUT_OF_MEMORY : OK;
  if (!error) my_row()->used_bytes[device] += bytes;
  unlock_shared();
  return error;
}

void uncharge(int device, uint64_t bytes) {
  lock_shared();
  struct process_state *row = my_row();
  row->used_bytes[device] -= bytes < row->used_bytes[device] ? bytes : row->used_bytes[device];
  unlock_shared();
}

/* For a program that tries several capacities in one process: from here on it can take BYTES more, and what is over goes
 * to the invented other process. The device's total, by which PyTorch computes fractions and reservations, stays. */
EXPORT int oomdoctor_set_capacity(int device, uint64_t bytes) {
  device = physical(device);
  if (device < 0) return ERR_INVALID_DEVICE;
  ensure_context(device);
  struct device_state *state = &shared->devices[device];
  lock_shared();
  uint64_t free_for_us = free_bytes(device) + state->other_bytes;
  int error = bytes > free_for_us ? ERR_INVALID_VALUE : OK;
  if (!error) state->other_bytes = free_for_us - bytes;
  unlock_shared();
  return error;
}
EXPORT void oomdoctor_set_event_latency(uint64_t operations) {
  device_init();
  shared->event_latency = operations;
}

EXPORT void oomdoctor_not_emulated(const char *name) {
  static const char *said[64];
  static int count;
  lock_process();
  int known = 0;
  for (int i = 0; i < count; i++) known |= said[i] == name || strcmp(said[i], name) == 0;
  if (!known && count < 64) said[count++] = name;
  unlock_process();
  if (!known) say("%s is not emulated, and fails here", name);
}

/* ---- devices and errors of the runtime ---- */

EXPORT int cudaGetDeviceCount(int *count) {
  *count = visible_count();
  return *count ? OK : set_error(100);
}
EXPORT int cudaGetDevice(int *device) {
  *device = device_now;
  return OK;
}
EXPORT int cudaSetDevice(int device) {
  if (physical(device) < 0) return set_error(ERR_INVALID_DEVICE);
  device_now = device;
  ensure_context(physical(device)); /* since CUDA 12 */
  return OK;
}
EXPORT int cudaGetLastError(void) {
  int error = last_error;
  last_error = OK;
  return error;
}
EXPORT int cudaPeekAtLastError(void) { return last_error; }
EXPORT const char *cudaGetErrorString(int error) {
  switch (error) {
    case OK: return "no error";
    case ERR_INVALID_VALUE: return "invalid argument";
    case ERR_OUT_OF_MEMORY: return "out of memory";
    case 100: return "no CUDA-capable device is detected";
    case ERR_INVALID_DEVICE: return "invalid device ordinal";
    case ERR_NOT_READY: return "device not ready";
    case ERR_NOT_SUPPORTED: return "operation not supported on an emulated device (oomdoctor)";
    case ERR_PEER_ALREADY_ENABLED: return "peer access is already enabled";
    default: return "error of an emulated device (oomdoctor)";
  }
}
EXPORT const char *cudaGetErrorName(int error) {
  switch (error) {
    case OK: return "cudaSuccess";
    case ERR_INVALID_VALUE: return "cudaErrorInvalidValue";
    case ERR_OUT_OF_MEMORY: return "cudaErrorMemoryAllocation";
    case 100: return "cudaErrorNoDevice";
    case ERR_INVALID_DEVICE: return "cudaErrorInvalidDevice";
    case ERR_NOT_READY: return "cudaErrorNotReady";
    case ERR_NOT_SUPPORTED: return "cudaErrorNotSupported";
    default: return "cudaErrorUnknown";
  }
}
