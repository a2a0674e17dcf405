/* What a device says of itself, kernels that do nothing, and the driver's functions, looked up by name. */
#define _GNU_SOURCE
#include "device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* ---- properties: offsets of struct cudaDeviceProp (driver_types.h of CUDA 12.4 and 13.0) ---- */

#if CUDA_MAJOR >= 13
#define PROP_BYTES 1008
enum { SM_COUNT = 384, INTEGRATED = 388, MAP_HOST = 392, SURFACE_ALIGN = 552, CONCURRENT = 560, ECC = 564, BUS = 568,
       ENGINES = 584, UNIFIED = 588, BUS_WIDTH = 592, L2 = 596, THREADS_SM = 604, PRIORITIES = 608, SHARED_SM = 624,
       REGS_SM = 632, MANAGED = 636, CONC_MANAGED = 656, COOPERATIVE = 668, SHARED_OPTIN = 672, BLOCKS_SM = 688,
       RESERVED_SHARED = 696, HOST_REGISTER = 704, POOLS = 720 };
#else
#define PROP_BYTES 1032
enum { SM_COUNT = 388, INTEGRATED = 396, MAP_HOST = 400, SURFACE_ALIGN = 568, CONCURRENT = 576, ECC = 580, BUS = 584,
       ENGINES = 600, UNIFIED = 604, BUS_WIDTH = 612, L2 = 616, THREADS_SM = 624, PRIORITIES = 628, SHARED_SM = 640,
       REGS_SM = 648, MANAGED = 652, CONC_MANAGED = 676, COOPERATIVE = 688, SHARED_OPTIN = 696, BLOCKS_SM = 712,
       RESERVED_SHARED = 720, HOST_REGISTER = 728, POOLS = 744 };
#endif
enum { UUID = 256, TOTAL = 288, SHARED_BLOCK = 296, REGS_BLOCK = 304, WARP = 308, PITCH = 312, THREADS_BLOCK = 320,
       DIMS = 324, GRID = 336, CONST = 352, MAJOR = 360, MINOR = 364, TEXTURE_ALIGN = 368 };

/* Figures of a Hopper data centre GPU, where the settings do not say otherwise: PyTorch sizes its cuBLAS workspace and
 * some temporary buffers by them, and those are allocations. */
#define SHARED_PER_SM 233472
#define SHARED_OPT_IN 232448
#define L2_BYTES (60 << 20)

void device_uuid(int device, unsigned char uuid[16]) {
  memset(uuid, 0, 16);
  memcpy(uuid, "oomdoctor-emu", 13);
  uuid[15] = (unsigned char)device;
}

static int get_properties(char *p, int device) {
  device = physical(device);
  if (device < 0) return set_error(ERR_INVALID_DEVICE);
  const struct device_state *d = &shared->devices[device];
  memset(p, 0, PROP_BYTES);
#define I32(offset, value) (*(int *)(p + (offset)) = (int)(value))
#define U64(offset, value) (*(uint64_t *)(p + (offset)) = (uint64_t)(value))
  snprintf(p, 256, "oomdoctor emulated device");
  device_uuid(device, (unsigned char *)p + UUID);
  U64(TOTAL, d->total_bytes);
  U64(SHARED_BLOCK, 49152);
  I32(REGS_BLOCK, 65536);
  I32(WARP, 32);
  U64(PITCH, 2147483647);
  I32(THREADS_BLOCK, 1024);
  I32(DIMS, 1024), I32(DIMS + 4, 1024), I32(DIMS + 8, 64);
  I32(GRID, 2147483647), I32(GRID + 4, 65535), I32(GRID + 8, 65535);
  U64(CONST, 65536);
  I32(MAJOR, d->compute_major);
  I32(MINOR, d->compute_minor);
  U64(TEXTURE_ALIGN, 512);
  U64(SURFACE_ALIGN, 512);
  I32(SM_COUNT, d->multiprocessors);
  I32(MAP_HOST, 1);
  I32(CONCURRENT, 1);
  I32(ECC, 1);
  I32(BUS, device + 1); /* pciBusID, then pciDeviceID and pciDomainID, 0 */
  I32(ENGINES, 3);
  I32(UNIFIED, 1);
  I32(BUS_WIDTH, 6144);
  I32(L2, L2_BYTES);
  I32(THREADS_SM, 2048);
  I32(PRIORITIES, 1);
  U64(SHARED_SM, SHARED_PER_SM);
  I32(REGS_SM, 65536);
  I32(MANAGED, 1);
  I32(CONC_MANAGED, 1);
  I32(COOPERATIVE, 1);
  U64(SHARED_OPTIN, SHARED_OPT_IN);
  I32(BLOCKS_SM, 32);
  U64(RESERVED_SHARED, 1024);
  I32(HOST_REGISTER, 1);
  I32(POOLS, 1);
  return OK;
}
EXPORT int cudaGetDeviceProperties(void *properties, int device) { return get_properties(properties, device); }
EXPORT int cudaGetDeviceProperties_v2(void *properties, int device) { return get_properties(properties, device); }

static int attribute(int *value, int id, int device) {
  device = physical(device);
  if (device < 0) return ERR_INVALID_DEVICE;
  const struct device_state *d = &shared->devices[device];
  switch (id) { /* enum cudaDeviceAttr, equal to CUdevice_attribute */
    case 1: case 2: case 3: *value = 1024; break;
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;
    case 6: case 7: *value = 65535; break;
    case 8: *value = 49152; break;
    case 9: *value = 65536; break;
    case 10: *value = 32; break;
    case 11: *value = 2147483647; break;
    case 12: case 82: *value = 65536; break;
    case 13: *value = 1980000; break;
    case 14: case 30: *value = 512; break;
    case 16: *value = (int)d->multiprocessors; break;
    case 15: case 19: case 31: case 32: case 41: case 78: case 83: case 89: case 90: case 95: case 99: case 115:
    case 125: *value = 1; break;
    case 102: *value = 1; break; /* virtual memory management */
    case 33: *value = device + 1; break;
    case 36: *value = 3201000; break;
    case 37: *value = 6144; break;
    case 38: *value = L2_BYTES; break;
    case 39: *value = 2048; break;
    case 40: *value = 3; break;
    case 75: *value = (int)d->compute_major; break;
    case 76: *value = (int)d->compute_minor; break;
    case 81: *value = SHARED_PER_SM; break;
    case 97: *value = SHARED_OPT_IN; break;
    case 106: *value = 32; break;
    case 111: *value = 1024; break;
    case 120: *value = d->compute_major >= 9; break;
    default: *value = 0; /* textures, multicast, fabric handles, RDMA: it has none */
  }
  return OK;
}
EXPORT int cudaDeviceGetAttribute(int *value, int id, int device) { return set_error(attribute(value, id, device)); }
EXPORT int cudaDeviceGetPCIBusId(char *text, int length, int device) {
  snprintf(text, length, "0000:%02X:00.0", physical(device) + 1);
  return OK;
}
EXPORT int cudaDeviceCanAccessPeer(int *can, int device, int peer) {
  *can = device != peer;
  return OK;
}
EXPORT int cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  static int enabled[MAX_DEVICES][MAX_DEVICES];
  (void)flags;
  int device = logical(current_device());
  if (peer < 0 || peer >= MAX_DEVICES) return set_error(ERR_INVALID_DEVICE);
  if (enabled[device][peer]) return set_error(ERR_PEER_ALREADY_ENABLED);
  enabled[device][peer] = 1;
  return OK;
}
EXPORT int cudaRuntimeGetVersion(int *version) {
  *version = CUDA_VERSION_NUMBER;
  return OK;
}
EXPORT int cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }

/* ---- kernels: registered, asked about, launched, never run ---- */

EXPORT void **__cudaRegisterFatBinary(void *binary) {
  static void *handle[4];
  (void)binary;
  return handle;
}
EXPORT char __cudaInitModule(void **handle) {
  (void)handle;
  return 1;
}
static __thread struct {
  unsigned grid[3], block[3];
  size_t shared_bytes;
  void *stream;
} configuration;
struct dim3 {
  unsigned x, y, z;
};
EXPORT unsigned __cudaPushCallConfiguration(struct dim3 grid, struct dim3 block, size_t shared_bytes, void *stream) {
  memcpy(configuration.grid, &grid, sizeof grid);
  memcpy(configuration.block, &block, sizeof block);
  configuration.shared_bytes = shared_bytes;
  configuration.stream = stream;
  return 0;
}
EXPORT int __cudaPopCallConfiguration(struct dim3 *grid, struct dim3 *block, size_t *shared_bytes, void *stream) {
  memcpy(grid, configuration.grid, sizeof *grid);
  memcpy(block, configuration.block, sizeof *block);
  *shared_bytes = configuration.shared_bytes;
  *(void **)stream = configuration.stream;
  return OK;
}
EXPORT int __cudaGetKernel(void **kernel, const void *function) {
  *kernel = (void *)function;
  return OK;
}
EXPORT int __cudaLaunchKernel(void *kernel, struct dim3 grid, struct dim3 block, void **args, size_t shared_bytes,
                              void *stream) {
  (void)kernel, (void)grid, (void)block, (void)args, (void)shared_bytes;
  ensure_context(current_device());
  note_work(stream);
  return OK;
}
EXPORT int cudaLaunchKernel(const void *function, struct dim3 grid, struct dim3 block, void **args,
                            size_t shared_bytes, void *stream) {
  return __cudaLaunchKernel((void *)function, grid, block, args, shared_bytes, stream);
}
EXPORT int cudaLaunchCooperativeKernel(const void *function, struct dim3 grid, struct dim3 block, void **args,
                                       size_t shared_bytes, void *stream) {
  return __cudaLaunchKernel((void *)function, grid, block, args, shared_bytes, stream);
}
struct launch_configuration { /* cudaLaunchConfig_t and CUlaunchConfig begin so */
  struct dim3 grid, block;
  size_t shared_bytes;
  void *stream;
};
EXPORT int cudaLaunchKernelExC(const struct launch_configuration *c, const void *function, void **args) {
  return __cudaLaunchKernel((void *)function, c->grid, c->block, args, c->shared_bytes, c->stream);
}
EXPORT int cudaFuncGetAttributes(void *attributes, const void *function) {
  const struct device_state *d = &shared->devices[current_device()];
  (void)function;
  memset(attributes, 0, 144);
  int *fields = (int *)((char *)attributes + 24);
  fields[0] = 1024; /* maxThreadsPerBlock */
  fields[1] = 32;   /* numRegs */
  fields[2] = fields[3] = (int)(10 * d->compute_major + d->compute_minor); /* ptxVersion, binaryVersion */
  fields[5] = SHARED_OPT_IN;                                               /* maxDynamicSharedSizeBytes */
  return OK;
}
static int occupancy(int *blocks, int block_size) {
  int fit = block_size > 0 ? 2048 / block_size : 1;
  *blocks = fit < 1 ? 1 : fit > 32 ? 32 : fit;
  return OK;
}
EXPORT int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int block_size,
                                                         size_t shared_bytes) {
  (void)function, (void)shared_bytes;
  return occupancy(blocks, block_size);
}
EXPORT int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int block_size,
                                                                  size_t shared_bytes, unsigned flags) {
  (void)function, (void)shared_bytes, (void)flags;
  return occupancy(blocks, block_size);
}
EXPORT int cudaGetSymbolAddress(void **address, const void *symbol) {
  (void)symbol;
  static void *scratch;
  device_init();
  if (!scratch) scratch = arena_alloc(1 << 20);
  *address = scratch;
  return OK;
}
static int refuse(const char *name) {
  oomdoctor_not_emulated(name);
  return set_error(ERR_NOT_SUPPORTED);
}
EXPORT int cudaIpcGetMemHandle(void *handle, void *pointer) {
  (void)handle, (void)pointer;
  return refuse("cudaIpcGetMemHandle (sharing device memory between processes)");
}
EXPORT int cudaIpcGetEventHandle(void *handle, void *event) {
  (void)handle, (void)event;
  return refuse("cudaIpcGetEventHandle (sharing events between processes)");
}

/* ---- the driver ---- */

EXPORT int cuInit(unsigned flags) {
  (void)flags;
  device_init();
  return OK;
}
EXPORT int cuDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }
extern int cudaGetDeviceCount(int *count);
EXPORT int cuDeviceGetCount(int *count) { return cudaGetDeviceCount(count); }
EXPORT int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return OK;
}
EXPORT int cuDeviceGetName(char *name, int length, int device) {
  (void)device;
  snprintf(name, length, "oomdoctor emulated device");
  return OK;
}
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  if (physical(device) < 0) return ERR_INVALID_DEVICE;
  *bytes = shared->devices[physical(device)].total_bytes;
  return OK;
}
EXPORT int cuDeviceGetUuid(unsigned char *uuid, int device) {
  if (physical(device) < 0) return ERR_INVALID_DEVICE;
  device_uuid(physical(device), uuid);
  return OK;
}
EXPORT int cuDeviceGetUuid_v2(unsigned char *uuid, int device) { return cuDeviceGetUuid(uuid, device); }
EXPORT int cuDeviceGetAttribute(int *value, int id, int device) { return attribute(value, id, device); }
EXPORT int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  if (physical(device) < 0) return ERR_INVALID_DEVICE;
  if (flags) *flags = 0;
  *active = has_context(physical(device));
  return OK;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
  if (physical(device) < 0) return ERR_INVALID_DEVICE;
  ensure_context(physical(device));
  *context = (void *)(uint64_t)(device + 1);
  return OK;
}
EXPORT int cuCtxGetCurrent(void **context) {
  int device = current_device();
  *context = has_context(device) ? (void *)(uint64_t)(logical(device) + 1) : NULL;
  return OK;
}
EXPORT int cuCtxGetDevice(int *device) {
  *device = logical(current_device());
  return OK;
}
EXPORT int cuStreamGetCtx(void *stream, void **context) {
  (void)stream;
  return cuDevicePrimaryCtxRetain(context, logical(current_device()));
}
EXPORT int cuPointerGetAttribute(void *data, int id, uint64_t pointer) {
  int device = logical(device_of((void *)pointer));
  switch (id) { /* CUpointer_attribute */
    case 1: *(void **)data = device >= 0 ? (void *)(uint64_t)(device + 1) : NULL; break; /* context */
    case 2: *(unsigned *)data = device >= 0 ? 2 : 1; break;                             /* memory type */
    case 3: case 4: *(uint64_t *)data = pointer; break;                                 /* device, host pointer */
    case 9: *(int *)data = device; break;                                               /* device ordinal */
    default: return ERR_NOT_SUPPORTED;
  }
  return OK;
}
EXPORT int cuGetErrorString(int error, const char **text) {
  extern const char *cudaGetErrorString(int);
  *text = cudaGetErrorString(error);
  return OK;
}
EXPORT int cuGetErrorName(int error, const char **text) {
  extern const char *cudaGetErrorName(int);
  *text = error == ERR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : cudaGetErrorName(error);
  return OK;
}
static int unavailable(void) { return ERR_NOT_SUPPORTED; }
#define UNAVAILABLE(name) \
  EXPORT int name(void) { return refuse(#name), unavailable(); }
UNAVAILABLE(cuMulticastCreate)
UNAVAILABLE(cuMulticastAddDevice)
UNAVAILABLE(cuMulticastBindMem)
UNAVAILABLE(cuMulticastUnbind)
UNAVAILABLE(cuMulticastGetGranularity)
UNAVAILABLE(cuMemExportToShareableHandle)
UNAVAILABLE(cuMemImportFromShareableHandle)
UNAVAILABLE(cuGreenCtxCreate)
UNAVAILABLE(cuGreenCtxDestroy)
UNAVAILABLE(cuModuleLoadData)
UNAVAILABLE(cuModuleLoadDataEx)
UNAVAILABLE(cuTensorMapEncodeTiled)

static int entry_point(const char *name, void **function, int *status) {
  char versioned[128];
  *function = dlsym(RTLD_DEFAULT, name);
  if (!*function) {
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *function = dlsym(RTLD_DEFAULT, versioned);
  }
  /* PyTorch asserts that it finds what it asks for, and checks the result where it calls it. */
  if (!*function) *function = (void *)unavailable;
  if (status) *status = 0;
  return OK;
}
EXPORT int cudaGetDriverEntryPoint(const char *name, void **function, uint64_t flags, int *status) {
  (void)flags;
  return entry_point(name, function, status);
}
EXPORT int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, uint64_t flags,
                                            int *status) {
  (void)version, (void)flags;
  return entry_point(name, function, status);
}
EXPORT int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
  (void)version, (void)flags;
  return entry_point(name, function, status);
}
