/* What the files of the emulated device share.
 *
 * No CUDA header is used: the emulated device is built where there is no CUDA toolkit. Types are spelled as plain
 * integers and pointers of the same size; numbers (error codes, attribute ids, structure offsets) are those of the
 * CUDA 12 and 13 ABI.
 */
#ifndef OOMDOCTOR_DEVICE_H
#define OOMDOCTOR_DEVICE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Set by the build from the soname of libcudart and from torch.version.cuda. */
#ifndef CUDA_MAJOR
#define CUDA_MAJOR 12
#endif
#ifndef CUDA_VERSION_NUMBER
#define CUDA_VERSION_NUMBER 12000
#endif

#define MAX_DEVICES 16
#define MAX_PROCESSES 256
#define GRANULE (2ull << 20) /* physical memory comes in 2 MiB pages, as on Pascal and later */

enum {
  OK = 0,
  ERR_INVALID_VALUE = 1,
  ERR_OUT_OF_MEMORY = 2,
  ERR_INVALID_DEVICE = 101,
  ERR_NOT_READY = 600,
  ERR_NOT_FOUND = 500,
  ERR_PEER_ALREADY_ENABLED = 704,
  ERR_NOT_SUPPORTED = 801,
  ERR_STREAM_CAPTURE_INVALIDATED = 901,
};

/* The state file: made by the launcher, mapped by every process that uses the devices. Memory that one process takes
 * is memory that another does not get, so what each process uses stands here. The layout is repeated in
 * oomdoctor/emulator/state.py. */
struct device_state {
  uint64_t total_bytes;
  uint64_t context_bytes; /* what a process's context takes */
  uint64_t other_bytes;   /* what another, invented process takes */
  uint32_t other_pid;
  uint32_t compute_major, compute_minor, multiprocessors;
};

struct process_state {
  uint32_t pid;
  uint32_t reserved;
  uint64_t used_bytes[MAX_DEVICES];
};

struct shared_state {
  char magic[8]; /* "oomdev1" */
  uint32_t num_devices;
  uint32_t address_order; /* 0 rising, 1 falling, 2 random; of memory and of reservations */
  uint64_t seed;
  uint64_t event_latency; /* how many later device operations an event waits for */
  uint64_t copy_bound_bytes;
  uint32_t lock; /* pid of the holder, or 0 */
  uint32_t verbose;
  uint32_t fresh_addresses; /* rising or falling on: what was freed is not handed out again */
  uint32_t padding;
  uint64_t reserved[7];
  struct device_state devices[MAX_DEVICES];
  struct process_state processes[MAX_PROCESSES];
};

extern struct shared_state *shared; /* NULL until the first call */

void device_init(void);               /* maps the state file, reserves the address ranges; idempotent */
int current_device(void);             /* as NVML counts */
int visible_count(void);
int physical(int device);             /* from the number that the program sees to NVML's; -1: there is none */
int logical(int device);              /* and back */
void ensure_context(int device);      /* the first use of a device by a process takes context_bytes */
int has_context(int device);
int charge(int device, uint64_t bytes); /* OK or ERR_OUT_OF_MEMORY */
void uncharge(int device, uint64_t bytes);
uint64_t used_by_all(int device);
uint64_t free_bytes(int device);
int set_error(int error);             /* remembers it for cudaGetLastError, returns it */
int device_of(const void *pointer);   /* -1: not device memory */
void lock_process(void);              /* this process's own mutex */
void unlock_process(void);
void *arena_alloc(size_t bytes);      /* at addresses that are the same in every run; zeroed */
void oomdoctor_not_emulated(const char *name);  /* says once that NAME is not emulated */
void say(const char *format, ...);

uint64_t tick(void);                  /* one more device operation */
void note_work(void *stream);         /* a launch or copy on a stream: a tick, and a node if it is capturing */
int is_capturing(void *stream);
void synchronize_all(void);

int copy_memory(void *destination, const void *source, size_t bytes, void *stream);
uint64_t reserve_address(int device, uint64_t bytes, uint64_t alignment, int virtual_memory);
int release_address(int device, uint64_t address, uint64_t *bytes);
extern const uint64_t device_base, device_span_limit;
extern uint64_t device_span; /* the bytes of one device's range */

#define EXPORT __attribute__((visibility("default")))
#endif
