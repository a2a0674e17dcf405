"""Live bytes by stack, as the tree that a flame graph draws."""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oomdoctor.diagnosis.frames import short_path
from oomdoctor.snapshot.stacks import Stacks
from oomdoctor_dashboard.live_data import NO_PLACE, Live
from oomdoctor_dashboard.stack_tree import Trie

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


@dataclass(frozen=True)
class _Tree:
    """What is live, in a trie; children by descending bytes."""

    trie: Trie
    bytes: NDArray[np.int64]
    blocks: NDArray[np.int64]
    _children: dict[int, list[int]] = field(default_factory=dict)

    def children(self, node: int) -> list[int]:
        found = self._children.get(node)
        if found is None:
            # A list first: meanwhile somebody may look at another moment, with other stacks.
            there = [
                (-int(self.bytes[child]), frame, child)
                for frame, child in list(self.trie.children[node].items())
                if child < len(self.blocks) and self.blocks[child]
            ]
            found = self._children[node] = [child for _, _, child in sorted(there)]
        return found


def flame_of(live: Live, *, all_frames: bool = False, most: int = MOST_NODES, zoom: str = "") -> Flame:
    """The live blocks by stack, the outermost frame at the root.

    Args:
        all_frames: also torch's, Python's own and C++; without them only those that tell, and of a stack
            that has none its one telling frame.
        most: nodes below what is zoomed to; the smallest are gathered, so that bytes stay what they are.
        zoom: path of a node: only what leads to it, and what is below. As far as there are such nodes.
    """
    tree = _tree(live, all_frames)
    way = _way(tree, zoom)
    floor = tree.bytes[way[-1]] * _SMALLEST_SHARE
    keep = most
    while True:
        flame = _listed(tree, way, live.places.stacks, floor, keep)
        if len(flame.ids) - flame.above <= most:
            return flame
        keep = max(1, keep * 4 // 5)


def _way(tree: _Tree, zoom: str) -> list[int]:
    """The nodes from the root to the one of a path, or to the last that there is."""
    way = [0]
    for frame in zoom.split("."):
        number = int(frame) if frame.lstrip("-").isdigit() else None
        child = None if number is None else tree.trie.children[way[-1]].get(number)
        if child is None or child not in tree.children(way[-1]):
            break
        way.append(child)
    return way


def _tree(live: Live, all_frames: bool) -> _Tree:
    numbers, of = np.unique(live.stack, return_inverse=True)
    sums = np.zeros(len(numbers), np.int64)
    np.add.at(sums, of, live.block_size)
    counts = np.bincount(of, minlength=len(numbers))
    trie = live.places.trie(all_frames)
    nodes = trie.nodes_of(numbers)
    size, blocks = np.zeros(len(trie.frame), np.int64), np.zeros(len(trie.frame), np.int64)
    size[0], blocks[0] = sums.sum(), len(live)
    if nodes:
        every, lengths = np.concatenate(nodes), [len(way) for way in nodes]
        np.add.at(size, every, np.repeat(sums, lengths))
        np.add.at(blocks, every, np.repeat(counts, lengths))
    return _Tree(trie, size, blocks)


def _listed(tree: _Tree, way: list[int], stacks: Stacks, floor: float, keep: int) -> Flame:
    """The last of ``way`` and the ``keep`` largest nodes below, one more for what was left out under each;
    and what leads there."""
    root = way[-1]
    kept: set[int] = {root}
    # Of equal ones the first child first, whatever was looked at before.
    tie = 0
    heap: list[tuple[int, int, int]] = [(0, 0, root)]
    while heap and len(kept) <= keep:
        _, _, node = heapq.heappop(heap)
        kept.add(node)
        for child in tree.children(node):
            if tree.bytes[child] >= floor:
                tie += 1
                heapq.heappush(heap, (-int(tree.bytes[child]), tie, child))
    out = Flame([], [], [], [], [], [], [], 0, [], len(way) - 1)
    depth = 0
    parent, path = "", ""
    for node in way[:-1]:
        parent, path = _add(out, tree, node, parent, path, stacks)
    todo: list[tuple[int, str, str, int]] = [(root, parent, path, len(way))]
    while todo:
        node, parent, path, level = todo.pop()
        depth = max(depth, level)
        name, path = _add(out, tree, node, parent, path, stacks)
        others = [child for child in tree.children(node) if child not in kept]
        todo += [(child, name, path, level + 1) for child in tree.children(node) if child in kept]
        if others:
            depth = max(depth, level + 1)
            word = "other" if len(others) == 1 else "others"
            out.ids.append(_id(name, "others"))
            out.parents.append(name)
            out.labels.append(f"{len(others)} {word}")
            out.details.append("too small to be drawn on their own")
            out.files.append("")
            out.paths.append(path)
            out.bytes.append(int(tree.bytes[others].sum()))
            out.blocks.append(int(tree.blocks[others].sum()))
    return Flame(**{**vars(out), "depth": depth})


def _id(parent: str, name: str) -> str:
    """Of a path, however long: short, and the same for the same path."""
    return hashlib.blake2b(f"{parent}/{name}".encode(), digest_size=8).hexdigest()


def _add(out: Flame, tree: _Tree, node: int, parent: str, above: str, stacks: Stacks) -> tuple[str, str]:
    """Its id and path; ``above`` is its parent's path."""
    number = tree.trie.frame[node]
    name = _id(parent, str(number)) if parent else ROOT
    path = (f"{above}." if above else "") + str(number) if parent else ""
    label, detail, file = "all that is shown", "", ""
    if number == -2:
        label = NO_PLACE
    elif number >= 0:
        frame = stacks.frames[number]
        file = short_path(frame.filename)
        label = f"{frame.name}  {file.rsplit('/', 1)[-1]}:{frame.line}"
        detail = f"{frame.filename}:{frame.line}"
    out.ids.append(name)
    out.parents.append(parent)
    out.labels.append(label)
    out.details.append(detail)
    out.files.append(file)
    out.bytes.append(int(tree.bytes[node]))
    out.blocks.append(int(tree.blocks[node]))
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
