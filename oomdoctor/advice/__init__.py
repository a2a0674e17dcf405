"""Which settings would have helped: search by replay, then proof by the real allocator."""
