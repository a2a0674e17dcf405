"""Programs that Hypothesis makes, and makes small again."""

from __future__ import annotations

from hypothesis import strategies as st

from oomdoctor.units import MIB

from .program import Program, Writer
from .programs import BOUNDARIES

Command = tuple[str, int, int]

# The simplest first: that is where shrinking ends. Sizes around the edges are worth as much as all others.
sizes = st.one_of(
    st.sampled_from((512, MIB, MIB + 512, 10 * MIB, 20 * MIB)),
    st.sampled_from(BOUNDARIES),
    st.integers(1, 64).map(lambda count: count * 2 * MIB),
    st.integers(1, 2 * MIB),
    st.integers(1, 200 * MIB),
)


def _commands(streams: int, *, idle: bool, pools: bool, graphs: bool) -> st.SearchStrategy[Command]:
    """A word, and two numbers whose meaning depends on it."""
    stream = st.integers(0, streams - 1)
    which = st.integers(0, 40)
    several = [
        st.tuples(st.just("alloc"), sizes, stream),
        st.tuples(st.just("free"), which, st.just(0)),
        st.tuples(st.just("alloc"), sizes, stream),
        st.tuples(st.just("free"), which, st.just(0)),
    ]
    if streams > 1:
        several.append(st.tuples(st.just("record_stream"), which, stream))
    if idle:
        several.append(st.tuples(st.sampled_from(("empty_cache", "synchronize")), st.just(0), st.just(0)))
    if pools:
        several.append(st.tuples(st.sampled_from(("pool_begin", "pool_end")), st.integers(0, 1), st.just(0)))
    if graphs:
        words = st.sampled_from(("graph_begin", "graph_end"))
        several.append(st.tuples(words, st.integers(2, 3), st.integers(1, max(1, streams - 1))))
    if pools or graphs:
        several.append(st.tuples(st.just("pool_drop"), st.integers(0, 3), st.just(0)))
    return st.one_of(several)


def written(commands: list[Command]) -> Program:
    """The program of ``commands``: those that make no sense where they stand are left out, so that any part of a
    list is a program too."""
    writer = Writer()
    for word, number, stream in commands:
        chosen = writer.live[number % len(writer.live)] if writer.live else None
        if word == "alloc":
            writer.alloc(number, stream)
        elif word == "free" and chosen is not None:
            writer.free(chosen)
        elif word == "record_stream" and chosen is not None and not writer.capture:
            writer.record_stream(chosen, stream)
        elif word == "empty_cache":
            writer.empty_cache()
        elif word == "synchronize":
            writer.synchronize()
        elif word == "pool_begin":
            writer.begin_pool(f"pool{number}")
        elif word == "pool_end":
            writer.end_pool()
        elif word == "graph_begin":
            writer.begin_graph(f"pool{number}", stream)
        elif word == "graph_end":
            writer.end_graph()
        elif word == "pool_drop":
            writer.drop_pool(f"pool{number}")
    return writer.program("hypothesis")


def programs(
    *,
    parts: int = 12,
    streams: int = 3,
    idle: bool = True,
    pools: bool = False,
    graphs: bool = False,
) -> st.SearchStrategy[Program]:
    """Programs of up to ``parts`` times as many operations, some 25 where it is 12.

    A test asks the real allocator about a list of them at once (``st.lists(programs(), ...)``): a process takes
    seconds to start, a program a few milliseconds.
    """
    commands = _commands(streams, idle=idle, pools=pools, graphs=graphs)
    # A list in parts: one list has six elements on average, however long it may be.
    several = st.lists(st.lists(commands, min_size=1, max_size=parts), min_size=1, max_size=parts)
    return several.map(lambda lists: written([command for part in lists for command in part]))
