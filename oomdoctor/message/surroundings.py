"""What stands around a message and bears on it: the PyTorch in use, and the settings of its allocator."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from oomdoctor.diagnosis.model import OomFacts

# "PyTorch version: 2.5.1+cu124" (torch.utils.collect_env), "torch==2.3.1" (pip)
_VERSION = re.compile(r"[Tt]orch(?:\s+[Vv]ersion\s*:?|==)\s*v?([0-3]\.\d{1,2}(?:\.\d{1,2})?(?:\+\w{1,12})?)")
# Not the hint's "try setting PYTORCH_CUDA_ALLOC_CONF=...", nor "Raise PYTORCH_CUDA_ALLOC_CONF expandable_..."
_SETTING = re.compile(
    r"(?<!setting\s)PYTORCH_(?:CUDA_|HIP_|NPU_)?ALLOC_CONF"
    r"(?:[\"'\]]{0,2}\s?[=:,]\s?|[\"']?,?\s{1,40}[\"']?value[\"']?\s?:\s?)[\"']?"  # a manifest's name, value
    r"([a-z_]{3,40}:[\w.:,>\[\]-]{1,200})"
)
_PAIR = re.compile(r"([a-z_]{3,40})(?:_mb)?:(\[[^\]]*\]|[\w.]+)")
_SLEEP_MODE = re.compile(
    r"enable[-_]sleep[-_]mode(?!\s?[=:]\s?[Ff]alse)|enable[-_]memory[-_]saver(?!\s?[=:]\s?[Ff]alse)"
    r"|[Ee]xpandable segments are not compatible with memory pool"
)
# A traceback's file on Windows; "\torch" may have lost its "\t" to an escape.
_WINDOWS = re.compile(r"\b[A-Za-z]:\\{1,4}[^\n]{0,200}?(?:orch|site-packages)\b")
_NOT_SUPPORTED = "expandable_segments not supported on this platform"
_SHARES = (
    (
        "gpu_memory_utilization",
        re.compile(r"gpu[-_]memory[-_]utilization[\"']?[\s=:]{1,3}([01]?\.\d{1,6})\b"),
    ),
    ("mem_fraction_static", re.compile(r"mem[-_]fraction[-_]static[\"']?[\s=:]{1,3}([01]?\.\d{1,6})\b")),
)


@dataclass
class Surroundings:
    """Gathered while a text is read; told to its events at the end."""

    torch_version: Optional[str] = None
    settings: dict[str, str] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def look(self, text: str) -> None:
        """Take what a cleaned text says. The first version holds, and the last setting."""
        if self.torch_version is None and "orch" in text:
            version = _VERSION.search(text)
            self.torch_version = version.group(1) if version else None
        if "ALLOC_CONF" in text:
            for setting in _SETTING.finditer(text):
                self.settings.update(
                    {pair.group(1): pair.group(2) for pair in _PAIR.finditer(setting.group(1))}
                )
        if ("sleep" in text or "saver" in text or "memory pool" in text) and _SLEEP_MODE.search(text):
            self.others["sleep_mode"] = True
        if _NOT_SUPPORTED in text or (":\\" in text and _WINDOWS.search(text)):
            self.others["expandable_segments_unsupported"] = True
        for name, share in _SHARES:
            given = share.search(text)
            if given:
                self.others[name] = float(given.group(1))

    def tell(self, facts: OomFacts) -> OomFacts:
        """The facts of one event with what stands around them, where it does not contradict their wording."""
        details = {**self.others, **facts.details}
        if self.settings:
            details["settings"] = dict(self.settings)
        between = details.get("torch")
        if (
            self.torch_version
            and between
            and _minor(between[0]) <= _minor(self.torch_version) <= _minor(between[1])
        ):
            details["torch_version"] = self.torch_version
        return facts if details == facts.details else replace(facts, details=details)


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])
