"""The caching allocator itself: settings, constants and rules as PyTorch states them, and its heap."""
