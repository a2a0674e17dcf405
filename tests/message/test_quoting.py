"""A text that only names an out-of-memory error reports none."""

from __future__ import annotations

import pytest

from oomdoctor.message import read_text

NAMED = (
    'Traceback (most recent call last):\n  File "/x/fit.py", line 10\n    if "CUDA out of memory" in str(e):\n'
    "KeyError: 'input_ids'\n",
    'Traceback (most recent call last):\n  File "/x/fit.py", line 10, in f\n    log.error("CUDA out of memory")\n'
    "ValueError: closed\n",
    'How to fix "CUDA out of memory" in PyTorch?',
    "If you get a CUDA out of memory error, reduce the batch size.",
    "no CUDA out of memory errors were seen in this run",
    "Setting batch size to avoid CUDA out of memory errors: 8",
    "--oom-retry  retry when CUDA runs out of memory",
    "The form is: CUDA out of memory. Tried to allocate X MiB (GPU Y; Z GiB total capacity; ...)",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {} GiB. GPU {} has a total capacity of {}",
    'TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", format_size(n));',
    'def is_oom(e): return "CUDA out of memory." in str(e) or "CUBLAS_STATUS_ALLOC_FAILED" in str(e)',
    'statements = ["CUDA out of memory.", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."]',
    'with pytest.raises(RuntimeError, match="CUDA out of memory"):',
    'except torch.OutOfMemoryError as e: print("out of memory on GPU, smaller batch")',
    "- Fix CUDA out of memory in test_foo (#1234)",
    'FAILED tests/test_x.py::test_oom - assert "CUDA out of memory" in str(e)',
)
REPORTED = (
    "RuntimeError: CUDA out of memory.",
    "torch.cuda.OutOfMemoryError: CUDA out of memory",
    'Error: "CUDA out of memory"',
    'level=ERROR error="CUDA error: out of memory"',
    'Traceback (most recent call last):\n  File "/x/loop.py", line 33, in f\n'
    '    raise RuntimeError("CUDA out of memory, lower the batch size") from e\n'
    "RuntimeError: CUDA out of memory, lower the batch size\n",
    '  File "/x/loop.py", line 33, in f\ntorch.OutOfMemoryError: CUDA out of memory.',
    "How to fix this? RuntimeError: CUDA out of memory.",
    "CUDA out of memory. Tried to allocate ",
    "How to fix CUDA out of memory. Tried to allocate 2.00 GiB",
)


@pytest.mark.parametrize("text", NAMED)
def test_only_named(text: str) -> None:
    assert read_text(text).ooms == ()


@pytest.mark.parametrize("text", REPORTED)
def test_reported(text: str) -> None:
    assert len(read_text(text).ooms) == 1
