"""The stacks of a recording as one tree of frames."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from oomdoctor.diagnosis.frames import is_internal, telling_frames
from oomdoctor.snapshot.stacks import Stacks


class Trie:
    """Stacks as a tree, the outermost frame at the root. It grows by those that are asked about: frames are
    told apart once, and each moment that is looked at needs only sums.

    Attributes:
        frame: of each node; -1: the root, the first; -2: stacks that were not recorded.
        children: of each node, by frame.
    """

    def __init__(self, stacks: Stacks, all_frames: bool) -> None:
        self.frame = [-1]
        self.children: list[dict[int, int]] = [{}]
        self._stacks = stacks
        self._all_frames = all_frames
        self._telling: dict[int, bool] = {}
        self._nodes: dict[int, NDArray[np.int64]] = {}
        self._lock = threading.Lock()

    def nodes_of(self, numbers: NDArray[np.int32]) -> list[NDArray[np.int64]]:
        """The nodes that each of some stacks goes through, the root not among them."""
        with self._lock:
            return [self._of(stack) for stack in numbers.tolist()]

    def _of(self, stack: int) -> NDArray[np.int64]:
        found = self._nodes.get(stack)
        if found is None:
            node, way = 0, []
            for frame in self._path(stack):
                child = self.children[node].get(frame)
                if child is None:
                    child = self.children[node][frame] = len(self.frame)
                    self.frame.append(frame)
                    self.children.append({})
                node = child
                way.append(node)
            found = self._nodes[stack] = np.array(way, np.int64)
        return found

    def _path(self, stack: int) -> Iterable[int]:
        """Numbers of the frames, outermost first; -2 for a stack that was not recorded."""
        stacks = self._stacks
        flat: NDArray[np.int32] = stacks.flat[stacks.starts[stack] : stacks.starts[stack + 1]]
        if stack < 0 or not len(flat):
            return (-2,)
        frames: list[int] = flat[::-1].tolist()
        if self._all_frames:
            return frames
        for frame in frames:
            if frame not in self._telling:
                self._telling[frame] = not is_internal(stacks.frames[frame])
        return [frame for frame in frames if self._telling[frame]] or _only_telling(stacks, stack)


def _only_telling(stacks: Stacks, stack: int) -> list[int]:
    frames = stacks[stack]
    first = telling_frames(frames, 1)[0]
    return [int(stacks.flat[stacks.starts[stack] + frames.index(first)])]
