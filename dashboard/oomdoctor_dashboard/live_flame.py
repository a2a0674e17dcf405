"""Live bytes by stack, as the tree that a flame graph draws."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oomdoctor.diagnosis.frames import is_internal, short_path, telling_frames
from oomdoctor.snapshot.stacks import Stacks
from oomdoctor_dashboard.live_data import NO_PLACE, Live

MOST_NODES = 240
# Narrower than two pixels of a laptop's screen.
_SMALLEST_SHARE = 1 / 600
ROOT = "live"


@dataclass(frozen=True)
class Flame:
    """A tree as lists, the root first, every node after its parent.

    Attributes:
        ids: of each node; the same for the same path in the same recording.
        parents: id of each node's parent, "" for the root.
        labels: what stands in the box.
        details: name, file and line in full; what was gathered.
        files: short path of the file, "" for what is no frame; boxes of one file have one colour.
        bytes, blocks: of all that is below. The bytes of children never add up to more than their parent's.
        depth: levels, the root's included.
        paths: what to zoom to where a node is chosen: numbers of its frames from the outermost on, with dots
            between; "" for the root. Of what was gathered, its parent's.
        above: how many nodes at the beginning are those above the one that was zoomed to.
    """

    ids: list[str]
    parents: list[str]
    labels: list[str]
    details: list[str]
    files: list[str]
    bytes: list[int]
    blocks: list[int]
    depth: int
    paths: list[str]
    above: int


@dataclass
class _Node:
    frame: int  # -1: the root, -2: stacks that were not recorded
    bytes: int
    blocks: int
    children: dict[int, _Node]


def flame_of(live: Live, *, all_frames: bool = False, most: int = MOST_NODES, zoom: str = "") -> Flame:
    """The live blocks by stack, the outermost frame at the root.

    Args:
        all_frames: also torch's, Python's own and C++; without them only those that tell, and of a stack
            that has none its one telling frame.
        most: nodes below what is zoomed to; the smallest are gathered, so that bytes stay what they are.
        zoom: path of a node: only what leads to it, and what is below. As far as there are such nodes.
    """
    stacks = live.places.stacks
    way = _way(_tree(live, stacks, all_frames), zoom)
    floor = way[-1].bytes * _SMALLEST_SHARE
    keep = most
    while True:
        flame = _listed(way, stacks, floor, keep)
        if len(flame.ids) - flame.above <= most:
            return flame
        keep = max(1, keep * 4 // 5)


def _way(root: _Node, zoom: str) -> list[_Node]:
    """The nodes from the root to the one of a path, or to the last that there is."""
    way = [root]
    for frame in zoom.split("."):
        child = way[-1].children.get(int(frame)) if frame.lstrip("-").isdigit() else None
        if child is None:
            break
        way.append(child)
    return way


def _tree(live: Live, stacks: Stacks, all_frames: bool) -> _Node:
    numbers, of = np.unique(live.stack, return_inverse=True)
    sums = np.zeros(len(numbers), np.int64)
    np.add.at(sums, of, live.block_size)
    counts = np.bincount(of, minlength=len(numbers))
    root = _Node(-1, int(sums.sum()), len(live), {})
    telling: dict[int, bool] = {}
    for stack, size, count in zip(numbers.tolist(), sums.tolist(), counts.tolist()):
        node = root
        for frame in _path(stacks, stack, all_frames, telling):
            child = node.children.get(frame)
            if child is None:
                child = node.children[frame] = _Node(frame, 0, 0, {})
            child.bytes += size
            child.blocks += count
            node = child
    return root


def _path(stacks: Stacks, stack: int, all_frames: bool, telling: dict[int, bool]) -> Iterable[int]:
    """Numbers of the frames, outermost first; -2 for a stack that was not recorded."""
    flat: NDArray[np.int32] = stacks.flat[stacks.starts[stack] : stacks.starts[stack + 1]]
    if stack < 0 or not len(flat):
        return (-2,)
    frames: list[int] = flat[::-1].tolist()
    if all_frames:
        return frames
    for frame in frames:
        if frame not in telling:
            telling[frame] = not is_internal(stacks.frames[frame])
    shown = [frame for frame in frames if telling[frame]]
    return shown or _only_telling(stacks, stack)


def _only_telling(stacks: Stacks, stack: int) -> list[int]:
    frames = stacks[stack]
    first = telling_frames(frames, 1)[0]
    return [int(stacks.flat[stacks.starts[stack] + frames.index(first)])]


def _listed(way: list[_Node], stacks: Stacks, floor: float, keep: int) -> Flame:
    """The last of ``way`` and the ``keep`` largest nodes below, one more for what was left out under each;
    and what leads there."""
    root = way[-1]
    kept: set[int] = {id(root)}
    tie = 0
    heap: list[tuple[int, int, _Node]] = [(0, 0, root)]
    while heap and len(kept) <= keep:
        _, _, node = heapq.heappop(heap)
        kept.add(id(node))
        for child in node.children.values():
            if child.bytes >= floor:
                tie += 1
                heapq.heappush(heap, (-child.bytes, tie, child))
    out = Flame([], [], [], [], [], [], [], 0, [], len(way) - 1)
    depth = 0
    parent, path = "", ""
    for node in way[:-1]:
        parent, path = _add(out, node, parent, path, stacks)
    todo: list[tuple[_Node, str, str, int]] = [(root, parent, path, len(way))]
    while todo:
        node, parent, path, level = todo.pop()
        depth = max(depth, level)
        name, path = _add(out, node, parent, path, stacks)
        others = [child for child in node.children.values() if id(child) not in kept]
        todo += [(child, name, path, level + 1) for child in node.children.values() if id(child) in kept]
        if others:
            depth = max(depth, level + 1)
            word = "other" if len(others) == 1 else "others"
            out.ids.append(_id(name, "others"))
            out.parents.append(name)
            out.labels.append(f"{len(others)} {word}")
            out.details.append("too small to be drawn on their own")
            out.files.append("")
            out.paths.append(path)
            out.bytes.append(sum(child.bytes for child in others))
            out.blocks.append(sum(child.blocks for child in others))
    return Flame(**{**vars(out), "depth": depth})


def _id(parent: str, name: str) -> str:
    """Of a path, however long: short, and the same for the same path."""
    return hashlib.blake2b(f"{parent}/{name}".encode(), digest_size=8).hexdigest()


def _add(out: Flame, node: _Node, parent: str, above: str, stacks: Stacks) -> tuple[str, str]:
    """Its id and path; ``above`` is its parent's path."""
    name = _id(parent, str(node.frame)) if parent else ROOT
    path = (f"{above}." if above else "") + str(node.frame) if parent else ""
    label, detail, file = "all that is shown", "", ""
    if node.frame == -2:
        label = NO_PLACE
    elif node.frame >= 0:
        frame = stacks.frames[node.frame]
        file = short_path(frame.filename)
        label = f"{frame.name}  {file.rsplit('/', 1)[-1]}:{frame.line}"
        detail = f"{frame.filename}:{frame.line}"
    out.ids.append(name)
    out.parents.append(parent)
    out.labels.append(label)
    out.details.append(detail)
    out.files.append(file)
    out.bytes.append(node.bytes)
    out.blocks.append(node.blocks)
    out.paths.append(path)
    return name, path


@dataclass(frozen=True)
class Boxes:
    """A flame laid out: for each node its level from 0 at the top, and where it begins and ends, in bytes of
    the node that was zoomed to. Those above it are as wide."""

    level: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]


def boxes_of(flame: Flame) -> Boxes:
    """Children from the left, the largest first."""
    count = len(flame.ids)
    level, low, high = (np.zeros(count, np.int64) for _ in range(3))
    number = {name: i for i, name in enumerate(flame.ids)}
    below: dict[int, list[int]] = {}
    for i, parent in enumerate(flame.parents):
        if i > flame.above:
            below.setdefault(number[parent], []).append(i)
    level[: flame.above + 1] = np.arange(flame.above + 1)
    high[: flame.above + 1] = flame.bytes[flame.above] if count else 0
    for i in range(flame.above, count):
        at = int(low[i])
        for child in sorted(below.get(i, ()), key=lambda one: -flame.bytes[one]):
            level[child], low[child], high[child] = level[i] + 1, at, at + flame.bytes[child]
            at = int(high[child])
    return Boxes(level, low, high)
