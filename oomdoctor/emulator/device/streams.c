/* Streams, events, capture and graphs. Work finishes in no time, unless events are asked to stay pending. */
#define _GNU_SOURCE
#include "device.h"

#include <stdlib.h>
#include <string.h>

struct stream {
  int device, priority;
  unsigned flags;
  uint64_t last_work;  /* tick of the newest operation */
  uint64_t synced;     /* everything up to this tick is known to be done */
  uint64_t capture_id; /* 0: not capturing */
  struct stream *next; /* streams of the process, for whole-device synchronization; free ones, for reuse */
};
struct event {
  struct stream *stream;
  uint64_t recorded; /* tick, 0: never */
  uint64_t capture_id;
  int done;
  struct event *next;
};
struct graph {
  uint64_t nodes;
};

static struct stream default_stream, *streams = &default_stream;
static struct stream *free_streams[MAX_DEVICES];
static struct event *free_events;
static uint64_t now, captures, capture_nodes;

uint64_t tick(void) { return __atomic_add_fetch(&now, 1, __ATOMIC_RELAXED); }

/* 0, 1 (legacy) and 2 (per thread) are the default stream. */
static struct stream *resolve(void *handle) { return (uint64_t)handle <= 2 ? &default_stream : handle; }

void note_work(void *handle) {
  struct stream *stream = resolve(handle);
  stream->last_work = tick();
  if (stream->capture_id) __atomic_add_fetch(&capture_nodes, 1, __ATOMIC_RELAXED);
}
int is_capturing(void *handle) { return resolve(handle)->capture_id != 0; }

static int is_done(struct stream *stream, uint64_t when) {
  return when <= stream->synced || when + shared->event_latency <= __atomic_load_n(&now, __ATOMIC_RELAXED);
}
static void synchronize(struct stream *stream, uint64_t until) {
  if (until > stream->synced) stream->synced = until;
}
void synchronize_all(void) {
  uint64_t until = __atomic_load_n(&now, __ATOMIC_RELAXED);
  lock_process();
  for (struct stream *stream = streams; stream; stream = stream->next) synchronize(stream, until);
  unlock_process();
}

EXPORT int cudaStreamCreateWithPriority(struct stream **handle, unsigned flags, int priority) {
  int device = current_device();
  ensure_context(device);
  lock_process();
  struct stream *stream = free_streams[device];
  if (stream) {
    free_streams[device] = stream->next;
    memset(stream, 0, sizeof *stream);
  }
  unlock_process();
  if (!stream) stream = arena_alloc(sizeof *stream);
  stream->device = device;
  stream->flags = flags;
  stream->priority = priority;
  lock_process();
  stream->next = streams;
  streams = stream;
  unlock_process();
  *handle = stream;
  return OK;
}
EXPORT int cudaStreamCreateWithFlags(struct stream **handle, unsigned flags) {
  return cudaStreamCreateWithPriority(handle, flags, 0);
}
EXPORT int cudaStreamCreate(struct stream **handle) { return cudaStreamCreateWithPriority(handle, 0, 0); }
EXPORT int cudaStreamDestroy(void *handle) {
  struct stream *stream = resolve(handle);
  if (stream == &default_stream) return set_error(ERR_INVALID_VALUE);
  lock_process();
  for (struct stream **at = &streams; *at; at = &(*at)->next)
    if (*at == stream) {
      *at = stream->next;
      stream->next = free_streams[stream->device];
      free_streams[stream->device] = stream;
      break;
    }
  unlock_process();
  return OK;
}
EXPORT int cudaStreamGetPriority(void *handle, int *priority) {
  *priority = resolve(handle)->priority;
  return OK;
}
EXPORT int cudaStreamQuery(void *handle) {
  struct stream *stream = resolve(handle);
  device_init();
  tick();
  return is_done(stream, stream->last_work) ? OK : ERR_NOT_READY;
}
EXPORT int cudaStreamSynchronize(void *handle) {
  ensure_context(current_device());
  synchronize(resolve(handle), tick());
  return OK;
}
EXPORT int cudaDeviceSynchronize(void) {
  ensure_context(current_device());
  synchronize_all();
  return OK;
}
EXPORT int cudaStreamWaitEvent(void *handle, struct event *event, unsigned flags) {
  struct stream *stream = resolve(handle);
  (void)flags;
  note_work(handle);
  if (event && event->capture_id) stream->capture_id = event->capture_id; /* joins the capture */
  return OK;
}
EXPORT int cudaLaunchHostFunc(void *handle, void (*function)(void *), void *data) {
  int capturing = is_capturing(handle);
  note_work(handle);
  if (!capturing) function(data);
  return OK;
}
EXPORT int cudaStreamAddCallback(void *handle, void (*callback)(void *, int, void *), void *data, unsigned flags) {
  (void)flags;
  note_work(handle);
  callback(handle, OK, data);
  return OK;
}
EXPORT int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return OK;
}

/* ---- events ---- */

EXPORT int cudaEventCreateWithFlags(struct event **handle, unsigned flags) {
  (void)flags;
  ensure_context(current_device());
  lock_process();
  struct event *event = free_events;
  if (event) {
    free_events = event->next;
    memset(event, 0, sizeof *event);
  }
  unlock_process();
  *handle = event ? event : arena_alloc(sizeof *event);
  return OK;
}
EXPORT int cudaEventCreate(struct event **handle) { return cudaEventCreateWithFlags(handle, 0); }
EXPORT int cudaEventDestroy(struct event *event) {
  lock_process();
  event->next = free_events;
  free_events = event;
  unlock_process();
  return OK;
}
EXPORT int cudaEventRecord(struct event *event, void *handle) {
  struct stream *stream = resolve(handle);
  note_work(handle);
  event->stream = stream;
  event->recorded = stream->last_work;
  event->capture_id = stream->capture_id;
  event->done = 0;
  return OK;
}
EXPORT int cudaEventRecordWithFlags(struct event *event, void *handle, unsigned flags) {
  (void)flags;
  return cudaEventRecord(event, handle);
}
EXPORT int cudaEventQuery(struct event *event) {
  device_init();
  tick(); /* so that a program which waits for an event by asking gets there */
  if (!event->recorded || event->done || is_done(event->stream, event->recorded)) return OK;
  return ERR_NOT_READY;
}
EXPORT int cudaEventSynchronize(struct event *event) {
  device_init();
  if (event->recorded) {
    event->done = 1;
    synchronize(event->stream, event->recorded);
  }
  return OK;
}
EXPORT int cudaEventElapsedTime(float *milliseconds, struct event *start, struct event *end) {
  *milliseconds = (float)(end->recorded - start->recorded) * 1e-3f; /* a made-up microsecond an operation */
  return OK;
}
EXPORT int cudaEventElapsedTime_v2(float *milliseconds, struct event *start, struct event *end) {
  return cudaEventElapsedTime(milliseconds, start, end);
}

/* ---- capture and graphs ---- */

static int capture_info(void *handle, int *status, uint64_t *id, void **graph) {
  struct stream *stream = resolve(handle);
  if (status) *status = stream->capture_id ? 1 : 0;
  if (id) *id = stream->capture_id;
  if (graph) *graph = stream->capture_id ? (void *)&capture_nodes : NULL;
  return OK;
}
EXPORT int cudaStreamIsCapturing(void *handle, int *status) { return capture_info(handle, status, NULL, NULL); }
#if CUDA_MAJOR >= 13
EXPORT int cudaStreamGetCaptureInfo(void *handle, int *status, uint64_t *id, void **graph, const void **dependencies,
                                    const void **edges, size_t *count) {
  if (dependencies) *dependencies = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  return capture_info(handle, status, id, graph);
}
#else
EXPORT int cudaStreamGetCaptureInfo(void *handle, int *status, uint64_t *id) {
  return capture_info(handle, status, id, NULL);
}
#endif
EXPORT int cudaStreamGetCaptureInfo_v2(void *handle, int *status, uint64_t *id, void **graph,
                                       const void **dependencies, size_t *count) {
  if (dependencies) *dependencies = NULL;
  if (count) *count = 0;
  return capture_info(handle, status, id, graph);
}
EXPORT int cudaStreamGetCaptureInfo_v3(void *handle, int *status, uint64_t *id, void **graph,
                                       const void **dependencies, const void **edges, size_t *count) {
  if (edges) *edges = NULL;
  return cudaStreamGetCaptureInfo_v2(handle, status, id, graph, dependencies, count);
}
EXPORT int cudaStreamBeginCapture(void *handle, int mode) {
  struct stream *stream = resolve(handle);
  (void)mode;
  if (stream == &default_stream || stream->capture_id) return set_error(ERR_INVALID_VALUE);
  ensure_context(stream->device);
  stream->capture_id = __atomic_add_fetch(&captures, 1, __ATOMIC_RELAXED);
  capture_nodes = 0;
  return OK;
}
EXPORT int cudaStreamBeginCaptureToGraph(void *handle, void *graph, const void *dependencies, const void *edges,
                                         size_t count, int mode) {
  (void)graph, (void)dependencies, (void)edges, (void)count;
  return cudaStreamBeginCapture(handle, mode);
}
EXPORT int cudaStreamEndCapture(void *handle, struct graph **graph) {
  struct stream *stream = resolve(handle);
  uint64_t id = stream->capture_id;
  if (!id) return set_error(ERR_INVALID_VALUE);
  lock_process();
  for (struct stream *other = streams; other; other = other->next)
    if (other->capture_id == id) other->capture_id = 0;
  unlock_process();
  *graph = arena_alloc(sizeof **graph);
  (*graph)->nodes = capture_nodes ? capture_nodes : 1;
  return OK;
}
EXPORT int cudaThreadExchangeStreamCaptureMode(int *mode) {
  static __thread int thread_mode;
  int before = thread_mode;
  thread_mode = *mode;
  *mode = before;
  return OK;
}
EXPORT int cudaGraphGetNodes(struct graph *graph, void **nodes, size_t *count) {
  uint64_t have = graph == (void *)&capture_nodes ? capture_nodes : graph->nodes;
  if (nodes)
    for (size_t i = 0; i < *count && i < have; i++) nodes[i] = graph;
  else
    *count = have;
  return OK;
}
EXPORT int cudaGraphNodeGetType(void *node, int *type) {
  (void)node;
  *type = 5; /* empty */
  return OK;
}
EXPORT int cudaGraphInstantiate(void **executable, void *graph, uint64_t flags) {
  (void)flags;
  *executable = graph;
  return OK;
}
EXPORT int cudaGraphInstantiateWithFlags(void **executable, void *graph, uint64_t flags) {
  return cudaGraphInstantiate(executable, graph, flags);
}
EXPORT int cudaGraphLaunch(void *executable, void *handle) {
  (void)executable;
  note_work(handle);
  return OK;
}
EXPORT int cudaUserObjectCreate(void **object, void *pointer, void (*destroy)(void *), unsigned count, unsigned flags) {
  (void)pointer, (void)destroy, (void)count, (void)flags;
  *object = &default_stream;
  return OK;
}
