/* The few functions of NVIDIA's compute libraries for which "return 0" is not enough. */
#define _GNU_SOURCE
#include "device.h"

#include <string.h>

#ifndef CUDNN_MAJOR
#define CUDNN_MAJOR 9
#endif

/* PyTorch refuses a cuDNN older than the one that it was built with. */
EXPORT size_t cudnnGetVersion(void) { return CUDNN_MAJOR >= 9 ? CUDNN_MAJOR * 10000 + 9900 : CUDNN_MAJOR * 1000 + 999; }
EXPORT size_t cudnnGetCudartVersion(void) { return CUDA_VERSION_NUMBER; }
EXPORT const char *cudnnGetErrorString(int status) {
  return status ? "cuDNN is not emulated (oomdoctor)" : "CUDNN_STATUS_SUCCESS";
}

/* One algorithm that needs no workspace beyond the one that PyTorch gives it. */
EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                          void *preference, int requested, void *results, int *count) {
  (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference;
  *count = requested > 0;
  if (requested > 0) memset(results, 0, 96); /* sizeof(cublasLtMatmulHeuristicResult_t) */
  return OK;
}
EXPORT int cublasGetVersion_v2(void *handle, int *version) {
  (void)handle;
  *version = CUDA_VERSION_NUMBER * 10;
  return OK;
}
EXPORT size_t cublasLtGetVersion(void) { return CUDA_VERSION_NUMBER * 10; }
EXPORT const char *cublasGetStatusString(int status) { return status ? "CUBLAS_STATUS (oomdoctor)" : "CUBLAS_STATUS_SUCCESS"; }
EXPORT const char *cublasGetStatusName(int status) { return cublasGetStatusString(status); }

EXPORT int nvrtcVersion(int *major, int *minor) {
  *major = CUDA_MAJOR;
  *minor = CUDA_VERSION_NUMBER % 1000 / 10;
  return OK;
}
EXPORT int nvrtcCreateProgram(void **program) {
  (void)program;
  oomdoctor_not_emulated("nvrtcCreateProgram (kernels compiled at run time)");
  return 1;
}
EXPORT const char *nvrtcGetErrorString(int error) {
  (void)error;
  return "kernels compiled at run time are not emulated (oomdoctor)";
}
EXPORT int cuptiGetVersion(unsigned *version) {
  *version = 0;
  return OK;
}
EXPORT int cuptiGetResultString(int result, const char **text) {
  (void)result;
  *text = "CUPTI is not emulated (oomdoctor)";
  return OK;
}
