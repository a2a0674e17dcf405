/* NCCL: the ranks of a communicator meet in a file that they all map, and small collectives are really made.
 *
 * A rank posts what it brings, waits until the others have posted theirs, and computes its result from all of them.
 * What is larger than SLOT_BYTES is met for and not made: its values mean nothing anyway. Unlike the real one, the
 * host waits where the real one's stream would. A peer that died is an error, as it is in NCCL. */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SLOT_BYTES (1ull << 20)
#define MAIL_BYTES (64ull << 10)
enum { NCCL_SYSTEM_ERROR = 2, NCCL_INVALID = 4, NCCL_REMOTE_ERROR = 6 };

struct unique_id {
  char bytes[128];
};
/* Two buffers, since a rank may be one collective ahead: it posts number n + 2 only when all have posted n + 1, and so
 * have read n. */
struct slot {
  uint32_t pid, pad;
  uint64_t posted; /* how many collectives this rank has brought its part to */
  uint64_t bytes[2];
  char data[2][SLOT_BYTES];
};
struct mailbox { /* one a pair of ranks; one letter at a time */
  uint64_t sent, received, bytes;
  char data[MAIL_BYTES];
};
struct communicator {
  int ranks, rank, device;
  uint64_t key, next, splits;
  struct slot *slots;
  struct mailbox *mail; /* [from * ranks + to] */
};

enum kind { ALL_REDUCE, REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER, SEND, RECEIVE };
struct operation {
  enum kind kind;
  const void *send;
  void *receive;
  size_t count;
  int type, reduction, peer; /* peer: the root, or whom a letter goes to or comes from */
  struct communicator *comm;
  void *stream;
  int done;
};

static uint64_t hash(uint64_t state, const void *data, size_t bytes) { /* FNV-1a */
  for (const unsigned char *byte = data; bytes--; byte++) state = (state ^ *byte) * 1099511628211ull;
  return state;
}

static int open_communicator(struct communicator **made, int ranks, int rank, uint64_t key) {
  char path[PATH_MAX];
  size_t bytes = ranks * sizeof(struct slot) + (size_t)ranks * ranks * sizeof(struct mailbox);
  int device = current_device();
  ensure_context(device);
  snprintf(path, sizeof path, "%s", getenv("OOMDOCTOR_EMULATED_STATE"));
  char *folder = dirname(path);
  size_t length = strlen(folder);
  if (folder != path) memmove(path, folder, length + 1);
  snprintf(path + length, sizeof path - length, "/nccl-%016llx-%d", (unsigned long long)key, ranks);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0) {
    if (fd >= 0) close(fd);
    say("cannot make %s: %s", path, strerror(errno));
    return NCCL_SYSTEM_ERROR;
  }
  void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0); /* sparse: pages come as they are used */
  close(fd);
  if (map == MAP_FAILED) return NCCL_SYSTEM_ERROR;
  struct communicator *comm = calloc(1, sizeof *comm);
  *comm = (struct communicator){.ranks = ranks, .rank = rank, .device = device, .key = key, .slots = map};
  comm->mail = (struct mailbox *)(comm->slots + ranks);
  comm->slots[rank].pid = (uint32_t)getpid();
  *made = comm;
  return OK;
}

static int wait_for(const uint64_t *counter, uint64_t value, const uint32_t *pid) {
  struct timespec pause = {0, 20000};
  for (int spins = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < value; spins++) {
    if (spins < 200) continue;
    uint32_t peer = __atomic_load_n(pid, __ATOMIC_RELAXED);
    if (spins % 1000 == 999 && peer && kill((pid_t)peer, 0) < 0 && errno == ESRCH &&
        __atomic_load_n(counter, __ATOMIC_ACQUIRE) < value)
      return NCCL_REMOTE_ERROR;
    nanosleep(&pause, NULL);
  }
  return OK;
}

/* ---- arithmetic of reductions ---- */

static size_t type_bytes(int type) { /* ncclDataType_t: int8 uint8 int32 uint32 int64 uint64 f16 f32 f64 bf16 f8 f8 */
  static const size_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return type >= 0 && type < (int)(sizeof bytes / sizeof *bytes) ? bytes[type] : 1;
}
static double half_value(uint16_t h) {
  int exponent = h >> 10 & 31;
  double mantissa = h & 1023, value;
  if (exponent == 31) value = mantissa ? __builtin_nan("") : __builtin_inf();
  else if (exponent) value = __builtin_ldexp(1024 + mantissa, exponent - 25);
  else value = __builtin_ldexp(mantissa, -24);
  return h >> 15 ? -value : value;
}
static uint16_t to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  uint16_t sign = bits >> 16 & 0x8000;
  int exponent = (int)(bits >> 23 & 255) - 112;
  uint32_t mantissa = bits & 0x7fffff;
  if ((bits & 0x7fffffff) > 0x7f800000) return sign | 0x7e00;
  if (exponent >= 31) return sign | 0x7c00;
  if (exponent <= 0) {
    if (exponent < -10) return sign;
    mantissa |= 0x800000;
    int shift = 14 - exponent;
    uint32_t rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1), result = mantissa >> shift;
    return sign | (uint16_t)(result + (rest > half || (rest == half && (result & 1))));
  }
  uint32_t result = (uint32_t)exponent << 10 | mantissa >> 13, rest = mantissa & 0x1fff;
  return sign | (uint16_t)(result + (rest > 0x1000 || (rest == 0x1000 && (result & 1))));
}
static double real_at(const void *data, size_t i, int type) {
  uint32_t bits;
  float value;
  switch (type) {
    case 6: return half_value(((const uint16_t *)data)[i]);
    case 7: return ((const float *)data)[i];
    case 8: return ((const double *)data)[i];
    default:
      bits = (uint32_t)((const uint16_t *)data)[i] << 16;
      memcpy(&value, &bits, 4);
      return value;
  }
}
static void set_real(void *data, size_t i, int type, double result) {
  float value = (float)result;
  uint32_t bits;
  switch (type) {
    case 6: ((uint16_t *)data)[i] = to_half(value); break;
    case 7: ((float *)data)[i] = value; break;
    case 8: ((double *)data)[i] = result; break;
    default:
      memcpy(&bits, &value, 4);
      ((uint16_t *)data)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}
static int64_t whole_at(const void *data, size_t i, int type) {
  switch (type) {
    case 0: return ((const int8_t *)data)[i];
    case 1: return ((const uint8_t *)data)[i];
    case 2: return ((const int32_t *)data)[i];
    case 3: return ((const uint32_t *)data)[i];
    default: return ((const int64_t *)data)[i];
  }
}
static void set_whole(void *data, size_t i, int type, int64_t value) {
  switch (type_bytes(type)) {
    case 1: ((int8_t *)data)[i] = (int8_t)value; break;
    case 4: ((int32_t *)data)[i] = (int32_t)value; break;
    default: ((int64_t *)data)[i] = value;
  }
}
#define COMBINE(a, b, how) ((how) == 1 ? (a) * (b) : (how) == 2 ? ((a) > (b) ? (a) : (b)) : (how) == 3 ? ((a) < (b) ? (a) : (b)) : (a) + (b))
/* From the element OFFSET of what each rank brought. ncclRedOp_t: sum, product, max, min, average. */
static void reduce(struct communicator *comm, int buffer, size_t offset, size_t count, int type, int how, void *out) {
  for (size_t i = 0; i < count; i++) {
    int whole = type <= 5;
    int64_t integer = 0;
    double real = 0;
    for (int rank = 0; rank < comm->ranks; rank++) {
      const void *data = comm->slots[rank].data[buffer];
      if (whole) {
        int64_t value = whole_at(data, offset + i, type);
        integer = rank ? COMBINE(integer, value, how) : value;
      } else {
        double value = real_at(data, offset + i, type);
        real = rank ? COMBINE(real, value, how) : value;
      }
    }
    if (how == 4) integer /= comm->ranks, real /= comm->ranks;
    if (whole) set_whole(out, i, type, integer);
    else set_real(out, i, type, real);
  }
}

/* ---- an operation in two steps, so that one thread may act for several ranks (ncclCommInitAll, groups) ---- */

static void post(struct operation *o) {
  struct communicator *c = o->comm;
  size_t bytes = o->count * type_bytes(o->type);
  if (o->kind == SEND) return;
  if (o->kind == RECEIVE) return;
  if (o->kind == REDUCE_SCATTER) bytes *= (size_t)c->ranks;
  struct slot *slot = &c->slots[c->rank];
  int buffer = c->next & 1;
  slot->bytes[buffer] = bytes;
  int brings = o->kind != BROADCAST || c->rank == o->peer;
  if (brings && bytes <= SLOT_BYTES && o->send) memcpy(slot->data[buffer], o->send, bytes);
  __atomic_store_n(&slot->posted, ++c->next, __ATOMIC_RELEASE);
}
static int complete(struct operation *o) {
  struct communicator *c = o->comm;
  size_t bytes = o->count * type_bytes(o->type);
  int error = OK;
  if (o->kind == SEND) {
    struct mailbox *box = &c->mail[c->rank * c->ranks + o->peer];
    if ((error = wait_for(&box->received, box->sent, &c->slots[o->peer].pid))) return error;
    box->bytes = bytes;
    if (bytes <= MAIL_BYTES) memcpy(box->data, o->send, bytes);
    __atomic_store_n(&box->sent, box->sent + 1, __ATOMIC_RELEASE);
    return OK;
  }
  if (o->kind == RECEIVE) {
    struct mailbox *box = &c->mail[o->peer * c->ranks + c->rank];
    if ((error = wait_for(&box->sent, box->received + 1, &c->slots[o->peer].pid))) return error;
    if (bytes <= MAIL_BYTES && bytes == box->bytes) memcpy(o->receive, box->data, bytes);
    __atomic_store_n(&box->received, box->received + 1, __ATOMIC_RELEASE);
    return OK;
  }
  int buffer = (c->next - 1) & 1;
  for (int rank = 0; rank < c->ranks && !error; rank++)
    error = wait_for(&c->slots[rank].posted, c->next, &c->slots[rank].pid);
  if (error || c->slots[c->rank].bytes[buffer] > SLOT_BYTES) return error;
  switch (o->kind) {
    case ALL_REDUCE: reduce(c, buffer, 0, o->count, o->type, o->reduction, o->receive); break;
    case REDUCE:
      if (c->rank == o->peer) reduce(c, buffer, 0, o->count, o->type, o->reduction, o->receive);
      break;
    case REDUCE_SCATTER:
      reduce(c, buffer, c->rank * o->count, o->count, o->type, o->reduction, o->receive);
      break;
    case BROADCAST:
      if (o->receive && o->receive != c->slots[o->peer].data[buffer])
        memcpy(o->receive, c->slots[o->peer].data[buffer], bytes);
      break;
    default:
      for (int rank = 0; rank < c->ranks; rank++)
        memcpy((char *)o->receive + rank * bytes, c->slots[rank].data[buffer], bytes);
  }
  return OK;
}

#define GROUP_MAX 4096
static __thread struct operation *group;
static __thread int group_count, group_depth;

/* Each round takes the next operation of every communicator: all post, then all complete. Letters go out first. */
static int run_group(void) {
  int error = OK, left = group_count;
  for (int i = 0; i < group_count; i++)
    if (group[i].kind == SEND) error |= complete(&group[i]), group[i].done = 1, left--;
  while (left > 0 && !error) {
    struct operation *round[GROUP_MAX];
    int count = 0;
    for (int i = 0; i < group_count; i++) {
      int taken = group[i].done;
      for (int k = 0; k < count && !taken; k++) taken = round[k]->comm == group[i].comm;
      if (!taken) round[count++] = &group[i];
    }
    for (int k = 0; k < count; k++) post(round[k]);
    for (int k = 0; k < count && !error; k++) error = complete(round[k]);
    for (int k = 0; k < count; k++) round[k]->done = 1;
    left -= count;
  }
  group_count = 0;
  return error;
}
static int submit(struct operation operation) {
  int capturing = is_capturing(operation.stream);
  note_work(operation.stream);
  if (capturing) return OK;
  if (!group) group = malloc(GROUP_MAX * sizeof *group);
  if (group_count == GROUP_MAX) return NCCL_INVALID;
  group[group_count++] = operation;
  return group_depth ? OK : run_group();
}
EXPORT int ncclGroupStart(void) {
  group_depth++;
  return OK;
}
EXPORT int ncclGroupEnd(void) { return --group_depth ? OK : run_group(); }

/* ---- the interface ---- */

EXPORT int ncclGetVersion(int *version) {
  *version = 22907;
  return OK;
}
EXPORT int ncclGetUniqueId(struct unique_id *id) {
  static uint64_t made;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  memset(id, 0, sizeof *id);
  uint64_t values[3] = {(uint64_t)getpid(), (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
                        __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED)};
  memcpy(id, values, sizeof values);
  return OK;
}
EXPORT const char *ncclGetErrorString(int result) {
  switch (result) {
    case OK: return "no error";
    case NCCL_REMOTE_ERROR: return "remote process exited or there was a network error";
    case NCCL_SYSTEM_ERROR: return "unhandled system error";
    default: return "error of an emulated NCCL (oomdoctor)";
  }
}
EXPORT const char *ncclGetLastError(void *comm) {
  (void)comm;
  return "";
}
EXPORT int ncclCommInitRank(struct communicator **comm, int ranks, struct unique_id id, int rank) {
  return open_communicator(comm, ranks, rank, hash(14695981039346656037ull, &id, sizeof id));
}
EXPORT int ncclCommInitRankConfig(struct communicator **comm, int ranks, struct unique_id id, int rank, void *config) {
  (void)config;
  return ncclCommInitRank(comm, ranks, id, rank);
}
EXPORT int ncclCommInitRankScalable(struct communicator **comm, int ranks, int rank, int ids, struct unique_id *id,
                                    void *config) {
  (void)ids, (void)config;
  return ncclCommInitRank(comm, ranks, *id, rank);
}
EXPORT int ncclCommInitAll(struct communicator **comms, int count, const int *devices) {
  struct unique_id id;
  ncclGetUniqueId(&id);
  for (int i = 0; i < count; i++) {
    int error = ncclCommInitRank(&comms[i], count, id, i);
    if (error) return error;
    comms[i]->device = physical(devices ? devices[i] : i);
  }
  return OK;
}
EXPORT int ncclCommSplit(struct communicator *comm, int color, int key, struct communicator **made, void *config) {
  (void)config;
  struct choice {
    int color, key;
  } mine = {color, key}, *all = malloc(comm->ranks * sizeof *all);
  struct operation gather = {.kind = ALL_GATHER, .send = &mine, .receive = all, .count = sizeof mine, .comm = comm};
  post(&gather);
  int error = complete(&gather), ranks = 0, rank = 0;
  for (int i = 0; i < comm->ranks && !error; i++)
    if (all[i].color == color) {
      ranks++;
      rank += all[i].key < key || (all[i].key == key && i < comm->rank);
    }
  free(all);
  *made = NULL;
  uint64_t values[3] = {comm->key, ++comm->splits, (uint64_t)color};
  return error || color < 0 ? error : open_communicator(made, ranks, rank, hash(1099511628211ull, values, sizeof values));
}
EXPORT int ncclCommDestroy(struct communicator *comm) {
  (void)comm; /* small, and another thread may still hold it */
  return OK;
}
EXPORT int ncclCommFinalize(struct communicator *comm) {
  (void)comm;
  return OK;
}
EXPORT int ncclCommAbort(struct communicator *comm) {
  (void)comm;
  return OK;
}
EXPORT int ncclCommGetAsyncError(struct communicator *comm, int *error) {
  (void)comm;
  *error = OK;
  return OK;
}
EXPORT int ncclCommCount(struct communicator *comm, int *count) {
  *count = comm->ranks;
  return OK;
}
EXPORT int ncclCommUserRank(struct communicator *comm, int *rank) {
  *rank = comm->rank;
  return OK;
}
EXPORT int ncclCommCuDevice(struct communicator *comm, int *device) {
  *device = logical(comm->device);
  return OK;
}
EXPORT int ncclRedOpCreatePreMulSum(int *operation) {
  *operation = 0; /* a sum; the factor is not applied */
  return OK;
}
EXPORT int ncclAllReduce(const void *send, void *receive, size_t count, int type, int reduction,
                         struct communicator *comm, void *stream) {
  return submit((struct operation){ALL_REDUCE, send, receive, count, type, reduction, 0, comm, stream, 0});
}
EXPORT int ncclReduce(const void *send, void *receive, size_t count, int type, int reduction, int root,
                      struct communicator *comm, void *stream) {
  return submit((struct operation){REDUCE, send, receive, count, type, reduction, root, comm, stream, 0});
}
EXPORT int ncclBroadcast(const void *send, void *receive, size_t count, int type, int root, struct communicator *comm,
                         void *stream) {
  return submit((struct operation){BROADCAST, send, receive, count, type, 0, root, comm, stream, 0});
}
EXPORT int ncclBcast(void *buffer, size_t count, int type, int root, struct communicator *comm, void *stream) {
  return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}
EXPORT int ncclAllGather(const void *send, void *receive, size_t count, int type, struct communicator *comm,
                         void *stream) {
  return submit((struct operation){ALL_GATHER, send, receive, count, type, 0, 0, comm, stream, 0});
}
EXPORT int ncclReduceScatter(const void *send, void *receive, size_t count, int type, int reduction,
                             struct communicator *comm, void *stream) {
  return submit((struct operation){REDUCE_SCATTER, send, receive, count, type, reduction, 0, comm, stream, 0});
}
EXPORT int ncclSend(const void *send, size_t count, int type, int peer, struct communicator *comm, void *stream) {
  return submit((struct operation){SEND, send, NULL, count, type, 0, peer, comm, stream, 0});
}
EXPORT int ncclRecv(void *receive, size_t count, int type, int peer, struct communicator *comm, void *stream) {
  return submit((struct operation){RECEIVE, NULL, receive, count, type, 0, peer, comm, stream, 0});
}
EXPORT int ncclMemAlloc(void **pointer, size_t bytes) {
  extern int cudaMalloc(void **, size_t);
  return cudaMalloc(pointer, bytes) ? 1 : OK;
}
EXPORT int ncclMemFree(void *pointer) {
  extern int cudaFree(void *);
  return cudaFree(pointer) ? 1 : OK;
}
