"""An allocation program, and writing one step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

Op = tuple[Any, ...]


@dataclass(frozen=True)
class Program:
    """What ``drive_allocator.py`` runs. ``name`` is for messages."""

    ops: tuple[Op, ...]
    settings: str = ""
    capacity: Optional[int] = None
    memory_fraction: Optional[float] = None
    continue_after_oom: bool = False
    name: str = ""

    def document(self) -> dict[str, Any]:
        """As the driver reads it."""
        return {
            "ops": [list(op) for op in self.ops],
            "settings": self.settings,
            "capacity": self.capacity,
            "memory_fraction": self.memory_fraction,
            "continue_after_oom": self.continue_after_oom,
        }

    def peak_requested_bytes(self) -> int:
        """The most that lives at once: what it needs at least, whatever the settings."""
        sizes: dict[Any, int] = {}
        peak = held = 0
        for op in self.ops:
            if op[0] == "alloc":
                sizes[op[1]] = op[2]
                held += op[2]
                peak = max(peak, held)
            elif op[0] == "free":
                held -= sizes.pop(op[1])
        return peak

    def under(
        self,
        settings: str,
        *,
        capacity: Optional[int] = None,
        memory_fraction: Optional[float] = None,
    ) -> Program:
        """The same requests under other conditions."""
        return replace(self, settings=settings, capacity=capacity, memory_fraction=memory_fraction)

    def without_idle_empty_cache(self, timeline: Sequence[int]) -> Program:
        """Without each ``empty_cache`` that released nothing in the run with this ``timeline``.

        Such a call leaves nothing in a recording, and may release something under other settings: a recording
        agrees with its program only where there is none. What is left should be run anew, since a call that
        released nothing may still have waited for pending frees.
        """
        idle = {
            index
            for index, (before, after) in enumerate(zip([0, *timeline], timeline))
            if self.ops[index][0] == "empty_cache" and before == after
        }
        return replace(self, ops=tuple(op for index, op in enumerate(self.ops) if index not in idle))


@dataclass
class Writer:
    """Writes operations that are valid: frees what lives, ends what began, and stays quiet during a capture."""

    ops: list[Op] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    owner: dict[int, Any] = field(default_factory=dict)  # of what lives: its pool, or None
    user_pool: Any = None
    capture: Optional[tuple[Any, int]] = None  # pool and stream
    pools: list[Any] = field(default_factory=list)  # that were begun and not dropped
    _next: int = 0

    def alloc(self, requested: int, stream: int = 0) -> int:
        """A capture allocates on its own stream only: others would have to join it."""
        if self.capture:
            stream = self.capture[1]
        self._next += 1
        self.ops.append(("alloc", self._next, requested, stream))
        self.live.append(self._next)
        self.owner[self._next] = self.capture[0] if self.capture else self.user_pool
        return self._next

    def free(self, identity: int) -> None:
        self.live.remove(identity)
        del self.owner[identity]
        self.ops.append(("free", identity))

    def record_stream(self, identity: int, stream: int) -> None:
        self.ops.append(("record_stream", identity, stream))

    def empty_cache(self) -> None:
        if not self.capture:
            self.ops.append(("empty_cache",))

    def synchronize(self) -> None:
        if not self.capture:
            self.ops.append(("synchronize",))

    def begin_pool(self, pool: Any) -> None:
        if self.user_pool is None and not self.capture:
            self.ops.append(("pool_begin", pool))
            self.user_pool = pool
            self._note(pool)

    def end_pool(self) -> None:
        if self.user_pool is not None and not self.capture:
            self.ops.append(("pool_end", self.user_pool))
            self.user_pool = None

    def begin_graph(self, pool: Any, stream: int) -> None:
        """Graphs capture outside ``use_mem_pool``, and on a stream of their own."""
        if self.user_pool is None and not self.capture and stream:
            self.ops.append(("graph_begin", pool, stream))
            self.capture = (pool, stream)
            self._note(pool)

    def end_graph(self) -> None:
        if self.capture:
            self.ops.append(("graph_end",))
            self.capture = None

    def drop_pool(self, pool: Any) -> None:
        """What lives in it goes first, as the allocator demands."""
        if pool in self.pools and pool != self.user_pool and not self.capture:
            for identity in [one for one in self.live if self.owner[one] == pool]:
                self.free(identity)
            self.ops.append(("pool_drop", pool))
            self.pools.remove(pool)

    def close(self) -> None:
        """End what was begun."""
        self.end_graph()
        self.end_pool()

    def _note(self, pool: Any) -> None:
        if pool not in self.pools:
            self.pools.append(pool)

    def program(self, name: str = "") -> Program:
        self.close()
        return Program(tuple(self.ops), name=name)
