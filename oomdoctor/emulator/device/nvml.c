/* NVML: what PyTorch's message and the launcher's sampler ask. Reads the shared state, so it sees every process. */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NVML_INVALID = 2, NVML_NOT_SUPPORTED = 3, NVML_NOT_FOUND = 6, NVML_TOO_SMALL = 7 };

/* A handle is the device's index plus one. */
static int device_index(void *handle) { return (int)(uint64_t)handle - 1; }

EXPORT int nvmlInit_v2(void) {
  device_init();
  return OK;
}
EXPORT int nvmlInit(void) { return nvmlInit_v2(); }
EXPORT int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  return nvmlInit_v2();
}
EXPORT int nvmlShutdown(void) { return OK; }
EXPORT const char *nvmlErrorString(int error) {
  return error == OK ? "Success" : error == NVML_NOT_SUPPORTED ? "Not Supported" : "Emulated NVML error";
}
EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  snprintf(text, length, "emulated");
  return OK;
}
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = CUDA_VERSION_NUMBER;
  return OK;
}
EXPORT int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }
EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
  device_init();
  *count = shared->num_devices;
  return OK;
}
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  device_init();
  if (index >= shared->num_devices) return NVML_INVALID;
  *handle = (void *)(uint64_t)(index + 1);
  return OK;
}
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **handle) {
  unsigned domain, number;
  device_init();
  if (sscanf(bus, "%x:%x", &domain, &number) != 2 || number < 1 || number > shared->num_devices) return NVML_NOT_FOUND;
  *handle = (void *)(uint64_t)number;
  return OK;
}
void nvml_uuid_text(int device, char *text, unsigned length) {
  extern void device_uuid(int device, unsigned char uuid[16]);
  unsigned char u[16];
  device_uuid(device, u);
  snprintf(text, length, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2],
           u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}
EXPORT int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
  nvml_uuid_text(device_index(handle), text, length);
  return OK;
}
EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
  char text[96];
  device_init();
  for (unsigned i = 0; i < shared->num_devices; i++) {
    nvml_uuid_text((int)i, text, sizeof text);
    if (strcmp(text, uuid) == 0) return nvmlDeviceGetHandleByIndex_v2(i, handle);
  }
  return NVML_NOT_FOUND;
}
EXPORT int nvmlDeviceGetIndex(void *handle, unsigned *index) {
  *index = (unsigned)device_index(handle);
  return OK;
}
EXPORT int nvmlDeviceGetName(void *handle, char *text, unsigned length) {
  (void)handle;
  snprintf(text, length, "oomdoctor emulated device");
  return OK;
}
EXPORT int nvmlDeviceGetMemoryInfo(void *handle, uint64_t *info) { /* total, free, used */
  int device = device_index(handle);
  info[0] = shared->devices[device].total_bytes;
  info[1] = free_bytes(device);
  info[2] = info[0] - info[1];
  return OK;
}
EXPORT int nvmlDeviceGetMemoryInfo_v2(void *handle, uint64_t *info) { /* version, total, reserved, free, used */
  int device = device_index(handle);
  info[1] = shared->devices[device].total_bytes;
  info[2] = 0;
  info[3] = free_bytes(device);
  info[4] = info[1] - info[3];
  return OK;
}

/* Two structures: nvmlProcessInfo_v1_t is {pid, bytes}; _v2 and _v3 add the ids of a MIG instance. */
static int processes(void *handle, unsigned *count, uint64_t *rows, int words) {
  int device = device_index(handle);
  unsigned n = 0, room = rows ? *count : 0;
  const struct device_state *d = &shared->devices[device];
  for (int i = -1; i < MAX_PROCESSES; i++) {
    uint32_t pid = i < 0 ? d->other_pid : shared->processes[i].pid;
    uint64_t bytes = i < 0 ? d->other_bytes : shared->processes[i].used_bytes[device];
    if (!pid || !bytes) continue;
    if (i >= 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH) continue;
    if (n < room) {
      uint64_t *row = rows + (size_t)n * words;
      row[0] = pid;
      row[1] = bytes;
      if (words == 3) row[2] = ~0ull;
    }
    n++;
  }
  *count = n;
  return n > room ? NVML_TOO_SMALL : OK;
}
EXPORT int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, uint64_t *rows) {
  return processes(handle, count, rows, 2);
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, uint64_t *rows) {
  return processes(handle, count, rows, 3);
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, uint64_t *rows) {
  return processes(handle, count, rows, 3);
}
static int none_running(unsigned *count) {
  *count = 0;
  return OK;
}
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned *count, void *rows) {
  (void)handle, (void)rows;
  return none_running(count);
}
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, void *rows) {
  (void)handle, (void)rows;
  return none_running(count);
}
/* Expandable segments ask, and torch 2.13 takes no refusal: there is an answer, and it is that there is no fabric. */
struct fabric_info { /* nvmlGpuFabricInfoV_t begins so in all its versions */
  unsigned version;
  unsigned char cluster[16];
  int status;
  unsigned clique;
  unsigned char state; /* 0: not supported */
};
EXPORT int nvmlDeviceGetGpuFabricInfoV(void *handle, struct fabric_info *info) {
  (void)handle;
  info->status = OK;
  info->state = 0;
  return OK;
}
#define NOT_SUPPORTED(name) \
  EXPORT int name(void) { return NVML_NOT_SUPPORTED; }
NOT_SUPPORTED(nvmlDeviceGetNvLinkRemoteDeviceType)
NOT_SUPPORTED(nvmlDeviceGetNvLinkRemotePciInfo_v2)
NOT_SUPPORTED(nvmlDeviceGetP2PStatus)
NOT_SUPPORTED(nvmlDeviceGetUtilizationRates)
NOT_SUPPORTED(nvmlDeviceGetTemperature)
NOT_SUPPORTED(nvmlDeviceGetPowerUsage)
NOT_SUPPORTED(nvmlDeviceGetClockInfo)
NOT_SUPPORTED(nvmlDeviceGetMigMode)
