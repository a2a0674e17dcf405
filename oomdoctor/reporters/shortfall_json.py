"""What no setting gives, for a program: ``shortfall`` of a device in ``advise --json``. Sizes are bytes."""

from __future__ import annotations

from typing import Any, Optional

from oomdoctor.advice.shortfall import Shortfall
from oomdoctor.diagnosis.by_stack import Place
from oomdoctor.snapshot.model import UNKNOWN

Json = dict[str, Any]


def document(lack: Optional[Shortfall]) -> Optional[Json]:
    """The whole of it; None where memory did not run out."""
    if lack is None:
        return None
    return {
        "basis": "replayed",
        "event": lack.event,
        "live_bytes": lack.live_bytes,
        "requested_bytes": lack.requested_bytes,
        "missing_bytes": lack.missing_bytes,
        "holders": [
            {
                "frames": _frames(one.place),
                "blocks": one.blocks,
                "bytes": one.bytes,
                "largest_bytes": one.largest_bytes,
                "kind": one.kind,
                "oldest_event": _known(one.oldest_event),
                "age_us": _known(one.age_us),
            }
            for one in lack.holders
        ],
        "by_kind": dict(lack.by_kind),
        "growth": {
            "basis": "derived",
            "formula": "sizes that a stack asks for one after the other, the block before freed each time",
            "buffers": [
                {
                    "frames": _frames(one.place),
                    "buffers": one.buffers,
                    "bytes": one.bytes,
                    "step_bytes": one.step_bytes,
                    "steps": one.steps,
                    "copy_bytes": one.copy_bytes,
                }
                for one in lack.growths
            ],
            "steps_fewer": lack.steps_fewer,
        },
        "varying": {
            "basis": "derived",
            "formula": "smaller_by = missing ÷ (grows + recurs + requested)",
            "bytes": lack.varying_bytes,
            "smaller_by": lack.smaller_by,
        },
        "trend": None
        if lack.trend is None
        else {
            "basis": "estimated",
            "formula": "peak in use = base + slope × size of this buffer, a line through earlier peaks",
            "frames": _frames(lack.trend.place),
            "size_bytes": lack.trend.size,
            "largest_bytes": lack.trend.largest,
            "fits_bytes": lack.trend.fits,
            "smaller_by": lack.trend.smaller_by,
            "sizes": lack.trend.sizes,
            "base_bytes": lack.trend.base_bytes,
            "slope": lack.trend.slope,
            "missed": lack.trend.missed,
        },
    }


def _frames(place: Place) -> list[Json]:
    return [{"name": f.name, "filename": f.filename, "line": f.line} for f in place.frames]


def _known(value: int) -> Optional[int]:
    return None if value == UNKNOWN else value
