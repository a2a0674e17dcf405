"""A stream of any length becomes events, in bounded memory and linear time.

Most of a log says nothing of memory. So the bytes are searched for a few short texts of which every message
we know has at least one (each search runs at the speed of ``memchr``), and only the surroundings of the hits
are decoded, cleaned and given to the grammars.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Callable, Optional

from oomdoctor.diagnosis.model import OomFacts
from oomdoctor.message.cleaning import CleanText, clean
from oomdoctor.message.grammars import sightings
from oomdoctor.message.host import not_the_devices
from oomdoctor.message.ledger import Ledger, stated_by
from oomdoctor.message.quoting import only_named
from oomdoctor.message.sighting import Sighting
from oomdoctor.message.surroundings import Surroundings

BLOCK_BYTES = 1 << 20
BEFORE_BYTES = 1 << 10
AFTER_BYTES = 3 << 10
LINE_BYTES = 16 << 10
REGION_BYTES = 1 << 16
TEXT_CHARACTERS = 700

# One of these is in every message of every grammar, wherever a terminal broke its lines, and hardly ever in a
# log of anything else.
TRIGGERS: tuple[bytes, ...] = (
    b"f memory",  # out of memory
    b"mmemory",  # the word in a colour of its own
    b"0m memory",
    b"ut of m",
    b"ut of\n",
    b"ut of \n",
    b"ut of\r",
    b"ut of res",
    b"o allocate",  # tried, failed, unable to allocate
    b"ot allocate",  # could not, cannot allocate
    b"f&nbsp;mem",  # out of memory, copied from HTML
    b"o&nbsp;all",
    b"&nbsp;of&nbsp;",
    b"OUT_OF_",  # CUDA_ERROR_OUT_OF_MEMORY
    b"OUT OF M",
    b"_ALLOC",  # CUBLAS_STATUS_ALLOC_FAILED, PYTORCH_CUDA_ALLOC_CONF
    b"NOT_INITIALIZED",
    b"by PyTorch",
    b"OutOf",
    b"MemoryAllocation",
    b"emory allocation",
    b"KV cach",
    b"nough ",
    b"vailable memory",
    b"ree memory on",
    b"Allocation on",
    b"NVML_SUCCESS",
    b"OOM",
    b"oom-kill",
    b"Cuda failure",
    b"nsufficient ",
    b"cuDNN algorithm",
    b"an engine to",
    b"ool size exceeded",
    b"SegmentVA]",
    b"reemptively",
    b"is unbalanced",
    b"PT_DEVMEM",
    b"Dst tensor is",
    b"orch version",
    b"orch==",
    b"\xe5\x86\x85\xe5\xad\x98",  # Chinese: memory
)

# What a server's log says every few seconds beginning with a trigger's words, and no message does.
EVERYDAY = (b"KV cache usage", b"KV cache hit", b"KV cache transfer")

_SWALLOWED = re.compile(r"(?i:\b(?:ignoring|ignored|skipping|skipped|retrying|recover(?:ed|ing)? from)\b)")
_RECOVERS = re.compile(r"(?i:\battempting to recover from (?:an )?(?:OOM|out of memory))")
_DEVICE_BEFORE = re.compile(r"(?:^|\s)\[?GPU ?(\d{1,3})\]?: (?:[\w.]{1,80}: )?\Z")


@dataclass(frozen=True)
class Reading:
    """What a text holds.

    Args:
        ooms: the events, in the order of their first print.
        bytes_read, lines_read: how much was read.
        instead: what it speaks of where ``ooms`` is empty and memory of another kind ran out.
        is_text: False where it holds what no text holds.
    """

    ooms: tuple[OomFacts, ...]
    bytes_read: int
    lines_read: int
    instead: Optional[str] = None
    is_text: bool = True


def read_text(text: str) -> Reading:
    """The events in a text."""
    return read_stream(io.BytesIO(text.encode("utf-8", errors="surrogatepass")))


def read_stream(stream: BinaryIO, progress: Optional[Callable[[int, int], None]] = None) -> Reading:
    """The events in a binary stream.

    Args:
        stream: UTF-8, UTF-16 with a byte order mark (what Windows shells write), or bytes that are neither.
        progress: called with the bytes read and the events found so far, once a block.
    """
    reader = _Reader()
    for block in _blocks(stream):
        reader.feed(block)
        if progress is not None:
            progress(reader.bytes_read, len(reader.ledger))
    return reader.finish()


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in blocks of UTF-8."""
    first = stream.read(BLOCK_BYTES)
    decoder = None
    if first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        decoder = codecs.getincrementaldecoder("utf-16")(errors="replace")
    block = first
    while block:
        yield decoder.decode(block).encode("utf-8", errors="replace") if decoder else block
        block = stream.read(BLOCK_BYTES)


class _Reader:
    """Cuts blocks into regions around triggers. A line belongs to one region at most."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.bytes_read = 0
        self._buffer = b""
        self._searched = 0  # hits before this offset of the buffer have been seen to
        self._used = 0  # ... and lines before this one have been in a region
        self._line = 1  # number of the buffer's first line
        self._control = 0
        self._instead: Optional[str] = None
        self._surroundings = Surroundings()

    def feed(self, block: bytes) -> None:
        self.bytes_read += len(block)
        if self.bytes_read <= 4 * BLOCK_BYTES:
            self._control += block.count(b"\x00")
        self._buffer += block
        self._search(len(self._buffer) - AFTER_BYTES - LINE_BYTES)
        keep = max(0, min(self._searched - BEFORE_BYTES, len(self._buffer)))
        keep = self._line_start(keep, lowest=max(0, keep - LINE_BYTES))
        self._line += self._buffer.count(b"\n", 0, keep)
        self._buffer = self._buffer[keep:]
        self._searched -= keep
        self._used = max(0, self._used - keep)

    def finish(self) -> Reading:
        self._search(len(self._buffer))
        lines = self._line + self._buffer.count(b"\n") - (1 if self._buffer.endswith(b"\n") else 0)
        return Reading(
            ooms=tuple(self._surroundings.tell(facts) for facts in self.ledger.facts),
            bytes_read=self.bytes_read,
            lines_read=lines if self.bytes_read else 0,
            instead=None if len(self.ledger) else self._instead,
            is_text=self._control < 8 or self._control * 1000 < min(self.bytes_read, 4 * BLOCK_BYTES),
        )

    def _search(self, limit: int) -> None:
        """See to all triggers before ``limit``."""
        if limit <= self._searched:
            return
        buffer = self._buffer
        hits: list[int] = []
        for trigger in TRIGGERS:
            # One hit in BEFORE_BYTES is as good as ten of them: the region is the same.
            at = buffer.find(trigger, self._searched, limit + len(trigger))
            while 0 <= at < limit:
                step = 256
                if buffer.startswith(EVERYDAY, at):
                    step = len(trigger)
                else:
                    hits.append(at)
                at = buffer.find(trigger, at + step, limit + len(trigger))
        self._searched = limit
        hits.sort()
        begin = end = previous = -1
        for hit in hits:
            first, last = max(self._used, hit - BEFORE_BYTES), min(len(buffer), hit + AFTER_BYTES)
            # A long run of hits is cut where it has a gap, so that no message is; or, in the end, anywhere.
            room = REGION_BYTES if hit - previous > BEFORE_BYTES // 2 else 2 * REGION_BYTES
            if begin >= 0 and (first > end or last - begin > room):
                self._region(begin, end if first > end else buffer.rfind(b"\n", begin + 1, hit) + 1 or hit)
                begin = -1
            if begin < 0:
                begin = max(self._used, hit - BEFORE_BYTES)
            end, previous = last, hit
        if begin >= 0:
            self._region(begin, end)

    def _region(self, begin: int, end: int) -> None:
        buffer = self._buffer
        begin = max(self._used, self._line_start(begin, lowest=max(self._used, begin - LINE_BYTES)))
        if buffer[end - 1 : end] != b"\n":
            newline = buffer.find(b"\n", end, end + LINE_BYTES)
            end = newline + 1 if newline >= 0 else end
        if end <= begin:
            return
        self._used = end
        number = self._line + buffer.count(b"\n", 0, begin)
        lines = buffer[begin:end].decode("utf-8", errors="replace").split("\n")
        text = clean((number + index, line.rstrip("\r")) for index, line in enumerate(lines))
        self._surroundings.look(text.text)
        found = [
            sighting
            for sighting in sightings(text.text)
            if stated_by(sighting.facts) or not only_named(text.text, sighting.start, sighting.end)
        ]
        for sighting in sorted(found, key=lambda sighting: text.line_at(sighting.start)):
            self._enter(sighting, text)
        if not found and self._instead is None:
            self._instead = not_the_devices(text.text)

    def _enter(self, sighting: Sighting, text: CleanText) -> None:
        facts = replace(
            sighting.facts,
            line=text.line_at(sighting.start),
            rank=text.rank_at(sighting.start) if sighting.facts.rank is None else sighting.facts.rank,
            text=" ".join(text.text[sighting.start : sighting.end].split())[:TEXT_CHARACTERS],
        )
        before = text.text[max(0, sighting.start - 120) : sighting.start].rpartition("\n")[2]
        device = _DEVICE_BEFORE.search(before) if facts.device is None else None
        if device:
            facts = replace(facts, device=int(device.group(1)))
        after = "\n".join(text.text[sighting.end : sighting.end + 900].split("\n", 2)[:2])
        self.ledger.add(
            replace(sighting, facts=facts),
            swallowed=_SWALLOWED.search(before) is not None or _RECOVERS.search(after) is not None,
            source=text.source_at(sighting.start),
        )

    def _line_start(self, offset: int, lowest: int) -> int:
        """The start of the line at ``offset``, or ``offset`` where it begins too far back."""
        newline = self._buffer.rfind(b"\n", lowest, offset)
        return newline + 1 if newline >= 0 else (lowest if lowest == 0 else offset)
