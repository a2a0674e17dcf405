/* NCCL: communicators that form, collectives that finish.
 *
 * Each rank keeps to its own data: a collective leaves in the result what this rank brought, where that is small enough
 * to copy. Sums over ranks and values from another rank are not made. */
#define _GNU_SOURCE
#include "device.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct unique_id {
  char bytes[128];
};
struct communicator {
  int ranks, rank, device;
};

static size_t type_bytes(int type) { /* ncclDataType_t */
  static const size_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return type >= 0 && type < (int)(sizeof bytes / sizeof *bytes) ? bytes[type] : 1;
}
EXPORT int ncclGetVersion(int *version) {
  *version = 22907;
  return OK;
}
EXPORT int ncclGetUniqueId(struct unique_id *id) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  memset(id, 0, sizeof *id);
  uint64_t values[2] = {(uint64_t)getpid(), (uint64_t)now.tv_nsec};
  memcpy(id, values, sizeof values);
  return OK;
}
EXPORT const char *ncclGetErrorString(int result) { return result ? "NCCL error (emulated)" : "no error"; }
EXPORT const char *ncclGetLastError(void *comm) {
  (void)comm;
  return "";
}
static int make(struct communicator **comm, int ranks, int rank) {
  struct communicator *made = calloc(1, sizeof *made);
  made->ranks = ranks;
  made->rank = rank;
  made->device = current_device();
  ensure_context(made->device);
  *comm = made;
  return OK;
}
EXPORT int ncclCommInitRank(struct communicator **comm, int ranks, struct unique_id id, int rank) {
  (void)id;
  return make(comm, ranks, rank);
}
EXPORT int ncclCommInitRankConfig(struct communicator **comm, int ranks, struct unique_id id, int rank, void *config) {
  (void)id, (void)config;
  return make(comm, ranks, rank);
}
EXPORT int ncclCommInitRankScalable(struct communicator **comm, int ranks, int rank, int ids, void *id, void *config) {
  (void)ids, (void)id, (void)config;
  return make(comm, ranks, rank);
}
EXPORT int ncclCommInitAll(struct communicator **comms, int count, const int *devices) {
  for (int i = 0; i < count; i++) {
    make(&comms[i], count, i);
    comms[i]->device = devices ? devices[i] : i;
  }
  return OK;
}
EXPORT int ncclCommSplit(struct communicator *comm, int color, int key, struct communicator **made, void *config) {
  (void)key, (void)config;
  *made = NULL;
  return color < 0 ? OK : make(made, comm->ranks, comm->rank);
}
EXPORT int ncclCommDestroy(struct communicator *comm) {
  free(comm);
  return OK;
}
EXPORT int ncclCommFinalize(struct communicator *comm) {
  (void)comm;
  return OK;
}
EXPORT int ncclCommAbort(struct communicator *comm) {
  (void)comm; /* others may still hold it */
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
  *device = comm->device;
  return OK;
}
EXPORT int ncclAllReduce(const void *send, void *receive, size_t count, int type, int operation,
                         struct communicator *comm, void *stream) {
  (void)operation, (void)comm;
  return copy_memory(receive, send, count * type_bytes(type), stream);
}
EXPORT int ncclReduce(const void *send, void *receive, size_t count, int type, int operation, int root,
                      struct communicator *comm, void *stream) {
  (void)operation;
  return comm->rank == root ? copy_memory(receive, send, count * type_bytes(type), stream) : OK;
}
EXPORT int ncclBroadcast(const void *send, void *receive, size_t count, int type, int root, struct communicator *comm,
                         void *stream) {
  return comm->rank == root ? copy_memory(receive, send, count * type_bytes(type), stream) : OK;
}
EXPORT int ncclBcast(void *buffer, size_t count, int type, int root, struct communicator *comm, void *stream) {
  return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}
EXPORT int ncclAllGather(const void *send, void *receive, size_t count, int type, struct communicator *comm,
                         void *stream) {
  size_t bytes = count * type_bytes(type);
  for (int rank = 0; rank < comm->ranks; rank++) copy_memory((char *)receive + rank * bytes, send, bytes, stream);
  return OK;
}
EXPORT int ncclReduceScatter(const void *send, void *receive, size_t count, int type, int operation,
                             struct communicator *comm, void *stream) {
  size_t bytes = count * type_bytes(type);
  (void)operation;
  return copy_memory(receive, (const char *)send + comm->rank * bytes, bytes, stream);
}
EXPORT int ncclSend(const void *send, size_t count, int type, int peer, struct communicator *comm, void *stream) {
  (void)send, (void)count, (void)type, (void)peer, (void)comm;
  note_work(stream);
  return OK;
}
EXPORT int ncclRecv(void *receive, size_t count, int type, int peer, struct communicator *comm, void *stream) {
  (void)receive;
  return ncclSend(NULL, count, type, peer, comm, stream);
}
EXPORT int ncclMemAlloc(void **pointer, size_t bytes) {
  extern int cudaMalloc(void **, size_t);
  return cudaMalloc(pointer, bytes) ? 1 : OK;
}
EXPORT int ncclMemFree(void *pointer) {
  extern int cudaFree(void *);
  return cudaFree(pointer) ? 1 : OK;
}
