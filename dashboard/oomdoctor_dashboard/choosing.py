"""What the boxes in the header offer."""

from __future__ import annotations

from typing import Any, Optional

from oomdoctor.errors import OomdoctorError
from oomdoctor_dashboard.library import Library


def item_choices(library: Library) -> list[dict[str, Any]]:
    """The snapshots by run: groups of ``dmc.Select``."""
    groups: dict[str, list[dict[str, str]]] = {}
    for item in library.items():
        label = f"{item.group} · {item.label}"
        groups.setdefault(item.group, []).append({"value": item.key, "label": label})
    return [{"group": group, "items": items} for group, items in groups.items()]


def with_chosen(choices: list[dict[str, str]], chosen: Any, label: str) -> list[dict[str, str]]:
    """Choices, and what is chosen though it is not there: it has to be seen to be cleared."""
    if chosen is None or str(chosen) in {one["value"] for one in choices}:
        return choices
    return [*choices, {"value": str(chosen), "label": f"{label} (not here)"}]


def device_choices(library: Library, key: Optional[str]) -> list[dict[str, str]]:
    """The devices of a snapshot that was read; none where it was not."""
    if key is None:
        return []
    try:
        return [{"value": str(device), "label": f"GPU {device}"} for device in library.devices(key)]
    except OomdoctorError:
        return []
