"""Seeded programs of many shapes: what real programs ask the allocator for, and what they rarely do."""

from __future__ import annotations

import random
from collections.abc import Callable

from oomdoctor.units import MIB

from .program import Program, Writer

# Where a rule changes: rounding, pools, segment sizes, splitting, each a byte below and above.
BOUNDARIES = tuple(
    sorted(
        {
            max(1, edge + off)
            for edge in (
                512,
                1024,
                MIB // 2,
                MIB,
                2 * MIB,
                5 * MIB,
                9 * MIB,
                10 * MIB,
                12 * MIB,
                19 * MIB,
                20 * MIB,
                21 * MIB,
                32 * MIB,
                40 * MIB,
                64 * MIB,
                84 * MIB,
                128 * MIB,
            )
            for off in (-512, -1, 0, 1, 512)
        }
    )
)


def small(rng: random.Random) -> int:
    """Up to 1 MiB, most of them far below."""
    return min(MIB, int(rng.lognormvariate(9, 2.5)) + 1)


def medium(rng: random.Random) -> int:
    return rng.randint(MIB + 1, 10 * MIB - 1)


def large(rng: random.Random) -> int:
    return rng.choice((rng.randint(10 * MIB, 150 * MIB), 2 * MIB * rng.randint(5, 70)))


def boundary(rng: random.Random) -> int:
    return rng.choice(BOUNDARIES)


def mixed(rng: random.Random) -> int:
    kind = rng.choices((small, medium, large, boundary), (5, 3, 2, 2))[0]
    return kind(rng)


def churn(
    rng: random.Random,
    length: int,
    size: Callable[[random.Random], int],
    *,
    live: int = 40,
    streams: int = 1,
    shared: float = 0.0,
    idle: float = 0.0,
) -> Writer:
    """Allocations that come and go, about ``live`` at a time.

    ``shared`` of them are used on another stream as well; ``idle`` of the steps empty the cache or synchronize.
    """
    writer = Writer()
    for _ in range(length):
        draw = rng.random()
        if draw < idle:
            rng.choice((writer.empty_cache, writer.synchronize))()
        elif len(writer.live) < live * rng.uniform(0.5, 1.5) or not writer.live:
            identity = writer.alloc(size(rng), rng.randrange(streams))
            if rng.random() < shared:
                writer.record_stream(identity, rng.randrange(streams))
        else:
            # Mostly young ones die, some live long: that is what leaves holes.
            at = int(len(writer.live) * rng.random() ** rng.choice((0.3, 1.0)))
            writer.free(writer.live[at])
    return writer


def inference(rng: random.Random, length: int) -> Writer:
    """Weights that stay, a cache that grows by copies, temporaries, and batches of other lengths."""
    writer = Writer()
    layers, hidden = rng.randint(2, 6), rng.choice((512, 1024, 2048))
    for _ in range(layers):
        for shape in (
            (3 * hidden, hidden),
            (hidden, hidden),
            (4 * hidden, hidden),
            (hidden, 4 * hidden),
            (1, hidden),
        ):
            writer.alloc(2 * shape[0] * shape[1])
    kept: list[int] = []
    while len(writer.ops) < length:
        batch, tokens = rng.randint(1, 8), rng.randint(16, 700)
        cache: list[int] = []
        for step in range(rng.randint(2, 12)):
            width = tokens if step == 0 else 1
            state = writer.alloc(2 * batch * width * hidden)
            for layer in range(layers):
                heads = writer.alloc(6 * batch * width * hidden)
                # torch.cat: the new one lives beside the old one for a moment.
                grown = writer.alloc(4 * batch * (tokens + step) * hidden)
                if step:
                    writer.free(cache[layer])
                    cache[layer] = grown
                else:
                    cache.append(grown)
                scores = writer.alloc(4 * batch * width * (tokens + step))
                probabilities = writer.alloc(4 * batch * width * (tokens + step))
                writer.free(scores)
                mixed_in = writer.alloc(2 * batch * width * hidden)
                writer.free(probabilities)
                writer.free(heads)
                writer.free(state)
                expanded = writer.alloc(8 * batch * width * hidden)
                state = writer.alloc(2 * batch * width * hidden)
                writer.free(expanded)
                writer.free(mixed_in)
            logits = writer.alloc(4 * batch * 8000)
            writer.free(state)
            kept.append(writer.alloc(8 * batch))
            writer.free(logits)
        for identity in cache:
            writer.free(identity)
        while len(kept) > rng.randint(0, 30):
            writer.free(kept.pop(rng.randrange(len(kept))))
    return writer


def training(rng: random.Random, length: int) -> Writer:
    """Activations that wait for the way back, gradients, and a state of the optimizer that comes with step one."""
    writer = Writer()
    layers, hidden = rng.randint(2, 8), rng.choice((256, 512, 1024))
    sizes = [4 * hidden * hidden * rng.choice((1, 3, 4)) for _ in range(layers)]
    for requested in sizes:
        writer.alloc(requested)
    state: list[int] = []
    while len(writer.ops) < length:
        batch = rng.randint(1, 16) * rng.choice((32, 100, 128))
        saved: list[list[int]] = []
        for _ in range(layers):
            inside = [
                writer.alloc(4 * batch * hidden * rng.choice((1, 2, 4))) for _ in range(rng.randint(1, 3))
            ]
            extra = writer.alloc(batch * hidden)
            saved.append(inside)
            writer.free(extra)
        loss = writer.alloc(4)
        gradients = []
        for layer in reversed(range(layers)):
            flowing = writer.alloc(4 * batch * hidden)
            gradients.append(writer.alloc(sizes[layer]))
            for identity in saved[layer]:
                writer.free(identity)
            writer.free(flowing)
        if not state:
            state = [writer.alloc(requested) for requested in sizes for _ in range(2)]
        for identity in gradients:
            writer.free(identity)
        writer.free(loss)
    return writer


def pools(rng: random.Random, length: int) -> Writer:
    """Allocations in and out of pools of the user's, on several streams, and pools that are dropped."""
    writer = Writer()
    for _ in range(length):
        draw = rng.random()
        if draw < 0.05:
            writer.begin_pool(f"user{rng.randrange(3)}")
        elif draw < 0.12:
            writer.end_pool()
        elif draw < 0.13 and writer.pools:
            writer.drop_pool(rng.choice(writer.pools))
        elif draw < 0.15:
            writer.empty_cache()
        elif draw < 0.62 or not writer.live:
            writer.alloc(mixed(rng), rng.randrange(2))
        else:
            writer.free(rng.choice(writer.live))
    return writer


def graphs(rng: random.Random, length: int) -> Writer:
    """Captures into pools, shared by some, between allocations that are not captured."""
    writer = Writer()
    for _ in range(length):
        draw = rng.random()
        if draw < 0.04:
            if not writer.capture:
                writer.synchronize()
                writer.empty_cache()  # as torch.cuda.graph does
            writer.begin_graph(f"graph{rng.randrange(3)}", rng.randint(1, 2))
        elif draw < 0.1:
            writer.end_graph()
        elif draw < 0.11 and writer.pools:
            writer.drop_pool(rng.choice(writer.pools))
        elif draw < 0.6 or not writer.live:
            identity = writer.alloc(mixed(rng), rng.randrange(3))
            if rng.random() < 0.1 and not writer.capture:
                writer.record_stream(identity, rng.randrange(3))
        else:
            writer.free(rng.choice(writer.live))
    return writer


SHAPES: dict[str, Callable[[random.Random, int], Writer]] = {
    "small": lambda rng, n: churn(rng, n, small, live=200),
    "medium": lambda rng, n: churn(rng, n, medium),
    "large": lambda rng, n: churn(rng, n, large, live=20),
    "boundary": lambda rng, n: churn(rng, n, boundary, live=30),
    "mixed": lambda rng, n: churn(rng, n, mixed),
    "caches": lambda rng, n: churn(rng, n, mixed, idle=0.03),
    "streams": lambda rng, n: churn(rng, n, mixed, streams=rng.randint(2, 4), shared=0.3),
    "everything": lambda rng, n: churn(rng, n, mixed, streams=4, shared=0.2, idle=0.03),
    "inference": inference,
    "training": training,
    "pools": pools,
    "graphs": graphs,
}
# What a shape needs of torch beyond 2.1, by its release.
NEEDS = {"pools": (2, 5)}


def make_program(shape: str, seed: int, length: int = 400) -> Program:
    """The program of a shape that belongs to ``seed``: the same ever after."""
    writer = SHAPES[shape](random.Random(f"{shape} {seed}"), length)
    return writer.program(f"{shape}/{seed}/{length}")
