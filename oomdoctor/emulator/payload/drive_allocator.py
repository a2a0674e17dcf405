"""Runs allocation programs through PyTorch's caching allocator, and tells what it did.

    python drive_allocator.py JOBS.json RESULTS.jsonl [ballast]

With ``ballast`` the device is taken for a real one, of which nothing can be set: all of its memory but a
program's capacity is taken while the program runs.

JOBS is a list of jobs, RESULTS gets one line a job. A job is
``{"program": {...}, "history": {"max_entries": N, "stacks": false}, "snapshot": PATH, "timeline": true,
"addresses": true, "event_latency": N, "address_order": "falling", "fresh_addresses": false, "seed": 0,
"fresh_process": false}``, of which only the program is needed. A program is
``{"ops": [...], "settings": "max_split_size_mb:64", "capacity": BYTES, "memory_fraction": 0.8,
"continue_after_oom": false}`` with these operations:

- ``["alloc", ID, BYTES, STREAM]``, ``["free", ID]``, ``["record_stream", ID, STREAM]``
- ``["empty_cache"]``, ``["synchronize"]``
- ``["pool_begin", POOL]`` and ``["pool_end", POOL]``: ``torch.cuda.use_mem_pool``
- ``["graph_begin", POOL, STREAM]`` and ``["graph_end"]``: the capture of a graph into a pool. What
  ``torch.cuda.graph`` does before (synchronize, empty_cache) is for the program to say.
- ``["pool_drop", POOL]``: the pool's ``MemPool`` and graphs go.

Streams are small numbers, 0 is the default stream. Each program starts with an emptied allocator. Jobs that
this process cannot run any more are left without a line, for another process: those that want a fresh one,
those whose settings would mix with what an earlier program left, and all that follow where the allocator did
not come back empty.

Loaded by path under the torch that is asked, Python 3.8 or later; standard library and torch only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import pickle
import sys
import time
import warnings
from typing import Any, Dict  # noqa: UP035 (Python 3.8)

import torch

STREAMS = 8
ADDRESS_ORDERS = ("rising", "falling", "random")
# Kept by the allocator until they are named again: processes that try several values see the last one's.
STICKY_SETTINGS = ("large_segment_size_mb", "max_non_split_rounding_mb")
MEASURES = (
    "allocated_bytes",
    "active_bytes",
    "reserved_bytes",
    "requested_bytes",
    "inactive_split_bytes",
)
COUNTERS = ("num_alloc_retries", "num_ooms", "num_oom_rejections", "num_device_alloc", "num_device_free")

Job = Dict[str, Any]  # noqa: UP006
Result = Dict[str, Any]  # noqa: UP006


class CannotGoOn(Exception):
    """This process's allocator is not in the state that a program must start from."""


class Unsupported(Exception):
    """This torch, or this device, lacks what the program asks for."""


class EmulatedDevice:
    """What can be set on an emulated device while a process runs; on a real one, nothing can."""

    # What changed the room of the program that ran last; None: nothing.
    disturbed: Any = None

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._library = library if hasattr(library, "oomdoctor_set_capacity") else None
        self._room = torch.cuda.mem_get_info(0)[0]

    def widen(self) -> None:
        """All memory that there is."""
        if self._library is not None:
            self._library.oomdoctor_set_capacity(0, ctypes.c_uint64(self._room))

    def reservations(self) -> int:
        """How many there are, as far as one can tell."""
        return 0 if self._library is None else int(self._library.oomdoctor_reservations(0))

    def arrange(self, job: Job) -> None:
        """Give the device the capacity, latency and addresses that ``job`` asks for."""
        capacity = job["program"].get("capacity")
        if self._library is None:
            if capacity is not None or job.get("event_latency") or "address_order" in job:
                raise Unsupported("capacity, event latency and addresses can be set on emulated devices only")
            return
        capacity = self._room if capacity is None else capacity
        if self._library.oomdoctor_set_capacity(0, ctypes.c_uint64(capacity)):
            raise Unsupported(f"the device has {self._room} bytes, the program asks for {capacity}")
        self._library.oomdoctor_set_event_latency(ctypes.c_uint64(job.get("event_latency", 0)))
        order = ADDRESS_ORDERS.index(job.get("address_order", "rising"))
        fresh = int(job.get("fresh_addresses", False))
        self._library.oomdoctor_set_addresses(order, fresh, ctypes.c_uint64(job.get("seed", 0)))


GRANULE = 2 << 20  # devices hand out pages of this size


class RealDevice:
    """A device with other memory than a program is to have: what is over is taken, as ballast.

    What ``cudaMemGetInfo`` calls free cannot all be had, and page tables take some too. So the room is made
    by allocating: the capacity in one piece, then everything else, then the capacity is given back.
    """

    def __init__(self) -> None:
        self._library = runtime_library()
        self._ballast: list[Any] = []
        self._room = 0  # what the last program had, bytes; 0: all there was
        self._free = 0  # as the device counts, when the program began
        self.disturbed: Any = None

    def _take(self, size: int) -> Any:
        """A block, or None where there is none."""
        pointer = ctypes.c_void_p()
        if self._library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)):
            self._library.cudaGetLastError()  # else the next call of PyTorch's reports it
            return None
        return pointer

    def _give_back(self, pointer: Any) -> None:
        if self._library.cudaFree(pointer):
            raise CannotGoOn("the device does not take its memory back")

    def _fits(self, size: int) -> bool:
        block = self._take(size) if size else None
        if block is not None:
            self._give_back(block)
        return block is not None or not size

    def widen(self) -> None:
        """All memory that there is, once it is known whether the program had what it was to have."""
        if self._room:
            self.disturbed = self._what_changed()
        while self._ballast:
            self._give_back(self._ballast.pop())
        self._room = 0

    def _what_changed(self) -> Any:
        """In words, what is otherwise than when the program began; the allocator is empty."""
        more = torch.cuda.mem_get_info(0)[0] - self._free
        if not self._fits(self._room):
            return f"{max(-more, GRANULE)} bytes of the program's room were taken by others meanwhile"
        if self._fits(self._room + GRANULE):
            return f"{max(more, GRANULE)} bytes beside the program's room became free meanwhile"
        return None

    def reservations(self) -> int:
        return 0  # nothing tells

    def arrange(self, job: Job) -> None:
        """Leave the device the capacity that ``job`` asks for."""
        if job.get("event_latency") or job.get("address_order", "rising") != "rising" or job.get("seed"):
            raise Unsupported("event latency and addresses can be set on emulated devices only")
        self.widen()
        self.disturbed = None
        capacity = job["program"].get("capacity")
        if capacity is None:
            return
        capacity = capacity // GRANULE * GRANULE
        room = self._take(capacity) if capacity else None
        if capacity and room is None:
            free = torch.cuda.mem_get_info(0)[0]
            raise Unsupported(f"the device has {free} bytes free, the program asks for {capacity}")
        self._fill()
        if room is not None:
            self._give_back(room)
        # Page tables of the block may be free now too.
        while self._fits(capacity + GRANULE):
            self._ballast.append(self._take(GRANULE))
        if not self._fits(capacity):
            self.widen()
            raise Unsupported("another process takes memory of the device")
        self._room = capacity
        self._free = torch.cuda.mem_get_info(0)[0]

    def _fill(self) -> None:
        """Take all that can be had, in large pieces as far as they go."""
        size = torch.cuda.mem_get_info(0)[0] // GRANULE * GRANULE
        while size >= GRANULE:
            block = self._take(size)
            if block is None:
                size = size // 2 // GRANULE * GRANULE
            else:
                self._ballast.append(block)


def runtime_library() -> Any:
    """The CUDA runtime that torch has loaded."""
    paths: list[Any] = [None]
    with open("/proc/self/maps", encoding="utf-8") as maps:
        names = {line.split()[-1] for line in maps if "/libcudart" in line}
    for path in paths + sorted(names):
        library = ctypes.CDLL(path)
        if hasattr(library, "cudaMalloc"):
            return library
    raise CannotGoOn("no cudaMalloc to be found: torch has no shared CUDA runtime loaded")


def stats() -> Result:
    """The allocator's statistics, nested."""
    nested: Result = torch.cuda.memory_stats_as_nested_dict(0)
    return nested


def reserved_bytes() -> int:
    return int(stats()["reserved_bytes"]["all"]["current"])


def full_settings(text: str) -> str:
    """What sets all anew: expandable_segments stays until it is named."""
    if "expandable_segments" in text:
        return text
    return ",".join(filter(None, (text, "expandable_segments:False")))


def sticky(program: Job) -> tuple[Any, ...]:
    """What a process cannot take back: programs that differ in this need different processes."""
    words = program.get("settings", "").replace(" ", "").split(",")
    kept = tuple(sorted(word for word in words if word.split(":")[0] in STICKY_SETTINGS))
    return (program.get("memory_fraction") is not None, kept)


def remove_unused_segments(streams: list[Any]) -> None:
    """Reservations go when the last of their memory is unmapped, so those where mapping failed would stay.

    The next allocation on their stream finds them; so one of each kind is made, and released.
    """
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")
    tensors = []
    for stream in streams:
        torch.cuda.set_stream(stream)
        tensors += [torch.empty(n, dtype=torch.uint8, device="cuda:0") for n in (1, 32 << 20)]
    torch.cuda.set_stream(streams[0])
    tensors.clear()
    torch.cuda.empty_cache()


class Run:
    """One program's tensors, pools and captures."""

    def __init__(self, job: Job, streams: list[Any]) -> None:
        self.job, self.streams = job, streams
        self.ops = job["program"]["ops"]
        self.tensors: dict[Any, Any] = {}
        self.user_pools = {op[1] for op in self.ops if op[0] == "pool_begin"}
        self.pools: dict[Any, Any] = {}
        self.routing: list[tuple[Any, Any]] = []  # use_mem_pool contexts that are open
        self.graphs: dict[Any, list[Any]] = {}
        self.capturing: Any = None
        self.skipped: set[Any] = set()
        self.allocations = 0
        self.first_oom: Any = None
        self.timeline: list[int] = []
        self.addresses: list[Any] = []
        self._stream = -1

    def execute(self) -> None:
        """All operations, or those up to the first that runs out of memory."""
        tensors, skipped, job = self.tensors, self.skipped, self.job
        empty, uint8, device = torch.empty, torch.uint8, torch.device("cuda", 0)
        timeline, addresses = job.get("timeline"), job.get("addresses")
        go_on = job["program"].get("continue_after_oom")
        for index, op in enumerate(self.ops):
            kind = op[0]
            if kind == "alloc":
                if op[3] != self._stream:
                    self._use_stream(op[3])
                self.allocations += 1
                try:
                    tensors[op[1]] = empty(op[2], dtype=uint8, device=device)
                except torch.cuda.OutOfMemoryError:
                    skipped.add(op[1])
                    if self.first_oom is None:
                        self.first_oom = self._describe(index, op[2])
                    if not go_on:
                        return
                if addresses:
                    self.addresses.append(tensors[op[1]].data_ptr() if op[1] in tensors else None)
            elif kind == "free":
                if op[1] not in skipped:
                    del tensors[op[1]]
            elif kind == "record_stream":
                if op[1] not in skipped:
                    tensors[op[1]].record_stream(self.streams[op[2]])
            else:
                getattr(self, "_" + kind)(*op[1:])
            if timeline:
                self.timeline.append(reserved_bytes())

    def _describe(self, index: int, requested: int) -> Result:
        """The first failure.

        ``alloc_index`` counts this program's alloc operations, ``event_alloc_index`` the allocator's own: a
        capture's generator state is allocated too, and nothing of 0 bytes is.
        """
        succeeded = stats()["allocation"]["all"]["allocated"]
        return {
            "alloc_index": self.allocations - 1,
            "event_alloc_index": succeeded,
            "op_index": index,
            "requested_bytes": requested,
        }

    def _use_stream(self, number: int) -> None:
        torch.cuda.set_stream(self.streams[number])
        self._stream = number

    def _empty_cache(self) -> None:
        torch.cuda.empty_cache()

    def _synchronize(self) -> None:
        torch.cuda.synchronize()

    def _pool(self, pool: Any) -> Any:
        if pool not in self.pools:
            make = torch.cuda.MemPool if pool in self.user_pools else torch.cuda.graph_pool_handle
            self.pools[pool] = make()
        return self.pools[pool]

    def _pool_begin(self, pool: Any) -> None:
        context = torch.cuda.use_mem_pool(self._pool(pool))
        context.__enter__()
        self.routing.append((pool, context))

    def _pool_end(self, pool: Any) -> None:
        at = max(i for i, (name, _) in enumerate(self.routing) if name == pool)
        self.routing.pop(at)[1].__exit__(None, None, None)

    def _graph_begin(self, pool: Any, stream: int) -> None:
        handle = self._pool(pool)
        self._use_stream(stream)
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=handle if isinstance(handle, tuple) else handle.id)
        self.capturing = graph
        self.graphs.setdefault(pool, []).append(graph)

    def _graph_end(self) -> None:
        graph, self.capturing = self.capturing, None
        graph.capture_end()

    def _pool_drop(self, pool: Any) -> None:
        self.graphs.pop(pool, None)
        self.pools.pop(pool, None)

    def close(self) -> None:
        """Everything that is still held goes."""
        if self.capturing is not None:
            self._use_stream(self._stream)
            self._graph_end()
        while self.routing:
            self.routing.pop()[1].__exit__(None, None, None)
        self.tensors.clear()
        self.graphs.clear()
        self.pools.clear()


class Driver:
    """One process's allocator, and the programs that it runs one after the other."""

    def __init__(self, ballast: bool = False) -> None:
        torch.cuda.init()
        self.device: Any = RealDevice() if ballast else EmulatedDevice()
        self.streams = [torch.cuda.default_stream(0), *(torch.cuda.Stream(0) for _ in range(STREAMS))]
        self.sticky: Any = None  # of the programs that this process runs
        # The allocator keeps a hash table of the streams with pending events. Grown now, it has the same
        # order in every program.
        tensor = torch.empty(1, dtype=torch.uint8, device="cuda:0")
        for stream in self.streams:
            tensor.record_stream(stream)
        del tensor

    def _empty(self) -> None:
        torch.cuda.set_stream(self.streams[0])
        for collect in (False, True):
            if collect:
                gc.collect()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            if reserved_bytes() == 0:
                return
        raise CannotGoOn(f"{reserved_bytes()} bytes stayed reserved")

    def _clean(self, program: Job) -> None:
        """The allocator as the next program must find it."""
        self._empty()
        self.device.widen()
        if "expandable_segments:True" in program.get("settings", ""):
            if program.get("memory_fraction") is not None:
                torch.cuda.set_per_process_memory_fraction(1.0, 0)
            remove_unused_segments(self.streams)
            self._empty()
        if self.device.reservations():
            raise CannotGoOn(f"{self.device.reservations()} address ranges stayed reserved")

    def takes(self, job: Job) -> bool:
        """Whether this process can run ``job`` as a fresh one would."""
        if self.sticky is None:
            self.sticky = sticky(job["program"])
            return True
        return not job.get("fresh_process") and self.sticky == sticky(job["program"])

    def _prepare(self, job: Job) -> None:
        program = job["program"]
        if any(op[0] == "pool_begin" for op in program["ops"]) and not hasattr(torch.cuda, "use_mem_pool"):
            raise Unsupported("this torch has no torch.cuda.use_mem_pool")
        torch.cuda.memory._record_memory_history(None)
        self._empty()
        self.device.arrange(job)
        torch.cuda.memory._set_allocator_settings(full_settings(program.get("settings", "")))
        if program.get("memory_fraction") is not None:
            torch.cuda.set_per_process_memory_fraction(program["memory_fraction"], 0)
        history = job.get("history")
        if history:
            torch.cuda.memory._record_memory_history(
                "all",
                context="all" if history.get("stacks") else None,
                stacks="python",
                max_entries=history.get("max_entries", sys.maxsize),
            )
            if any(torch.cuda.memory._snapshot()["device_traces"]):
                raise CannotGoOn("the history holds an earlier program's entries")
        torch.cuda.reset_peak_memory_stats(0)
        torch.cuda.reset_accumulated_memory_stats(0)

    def run(self, job: Job) -> Result:
        """Run one job; ``error`` in its result says why it could not be run to its end."""
        result: Result = {"error": None, "unsupported": None, "can_go_on": True}
        run = Run(job, self.streams)
        try:
            self._prepare(job)
            before = stats()
            start = time.perf_counter()
            run.execute()
            result["seconds"] = time.perf_counter() - start
            self._tell(run, before, result)
        except Unsupported as error:
            result["unsupported"] = str(error)
        except Exception as error:  # whatever the allocator says is a result
            result.update(error=f"{type(error).__name__}: {error}", can_go_on=False)
        try:
            run.close()
            self._clean(job["program"])
            result["disturbed"] = self.device.disturbed
        except Exception as error:  # the result stands; the next program needs another process
            result.update(leftover=f"{type(error).__name__}: {error}", can_go_on=False)
        return result

    def _tell(self, run: Run, before: Result, result: Result) -> None:
        after = stats()
        result["first_oom"] = run.first_oom
        result["allocations"] = after["allocation"]["all"]["allocated"]
        for name in MEASURES:
            for what in ("peak", "current"):
                result[f"{what}_{name}"] = after[name]["all"][what]
        for what in ("allocated", "freed"):
            result[f"segments_{what}"] = after["segment"]["all"][what]
        for name in COUNTERS:
            result[name] = after[name] - before[name] if name in after else None
        if run.job.get("timeline"):
            result["timeline"] = run.timeline
        if run.job.get("addresses"):
            result["addresses"] = run.addresses
        if run.job.get("snapshot"):
            with open(run.job["snapshot"], "wb") as file:
                pickle.dump(torch.cuda.memory._snapshot(), file)


def main(jobs_path: str, results_path: str, room_by: str = "device") -> None:
    """Run the jobs of one file; results are written one by one, since the allocator may end the process."""
    warnings.simplefilter("ignore")
    with open(jobs_path, encoding="utf-8") as file:
        jobs = json.load(file)
    driver = Driver(ballast=room_by == "ballast")
    with open(results_path, "w", encoding="utf-8") as results:
        for index, job in enumerate(jobs):
            if not driver.takes(job):
                continue
            result = driver.run(job)
            results.write(json.dumps({"index": index, **result}) + "\n")
            results.flush()
            if not result["can_go_on"] or job.get("fresh_process"):
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
