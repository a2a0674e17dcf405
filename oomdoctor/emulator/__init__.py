"""CUDA devices that are not there: the real PyTorch allocator runs, kernels do not.

torch's CUDA build links against NVIDIA's libraries and calls nothing else to manage memory. Here each of
those libraries is stood in for by a stub that defines what torch imports from it; the CUDA runtime, the part
of the driver that maps memory, NVML and NCCL behave (``device/``). Everything above them, the caching
allocator first of all, is PyTorch's own code, unmodified.
"""
