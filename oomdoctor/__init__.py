"""oomdoctor: what happened in PyTorch's CUDA caching allocator, and what would have helped."""

__version__ = "0.1.0"
