"""The real allocator as the reference: programs, settings, and what it does with them."""
