"""Every container, every protocol, every era gives the same columns."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

from oomdoctor.errors import ForeignInput
from oomdoctor.snapshot import NO_STACK, read_snapshot, snapshot_from_plain
from oomdoctor.snapshot.limits import Limits
from oomdoctor.snapshot.model import ACTIONS, OOM, STATES, UNKNOWN
from tests.snapshot.building import MIB, USER, block, event, frame, ordinary, segment, snapshot


def _html(data: bytes) -> bytes:
    """As torch/cuda/_memory_viz.py embeds it: zeros up to a multiple of three, then base64."""
    padded = data + b"\x00" * (-len(data) % 3)
    files = json.dumps([{"name": "snapshot.pickle", "base64": base64.b64encode(padded).decode()}])
    page = f"\n<!DOCTYPE html>\n<html>\n<script>\nconst local_files = {files}\n</script>\n</body>\n"
    return page.encode()


ENCODINGS: dict[str, Callable[[Any], bytes]] = {
    **{f"protocol {p}": lambda plain, p=p: pickle.dumps(plain, p) for p in (2, 3, 4, 5)},
    "gzip": lambda plain: gzip.compress(pickle.dumps(plain, 4)),
    "json": lambda plain: json.dumps(plain).encode(),
    "json with a mark": lambda plain: b"\xef\xbb\xbf\n" + json.dumps(plain, indent=1).encode(),
    "json, gzip": lambda plain: gzip.compress(json.dumps(plain).encode()),
    "html": lambda plain: _html(pickle.dumps(plain, 4)),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_containers_read_alike(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "named.anything"
    path.write_bytes(ENCODINGS[encoding](ordinary()))
    found = read_snapshot(path)
    expected = snapshot_from_plain(ordinary())
    for table in ("segments", "blocks"):
        for name, column in vars(getattr(expected, table)).items():
            assert getattr(getattr(found, table), name).tolist() == column.tolist(), name
    for mine, theirs in zip(found.traces, expected.traces):
        for name, column in vars(theirs).items():
            assert np.array_equal(getattr(mine, name), column), name
    assert found.annotations == expected.annotations
    assert found.settings == expected.settings
    assert found.since == "2.12"


def test_columns() -> None:
    found = snapshot_from_plain(ordinary())
    assert found.devices() == [0]
    assert found.segments.first_block.tolist() == [0, 4, 6]
    assert found.segments.is_small.tolist() == [False, True]
    assert [STATES[s] for s in found.blocks.state[:2]] == ["active_allocated", "inactive"]
    assert found.blocks.requested_size[2] == 2 * MIB - 100
    trace = found.traces[0]
    assert [ACTIONS[a] for a in trace.action] == [
        "segment_alloc", "alloc", "free_requested", "free_completed", "oom", "snapshot",
    ]  # fmt: skip
    row = trace.action.tolist().index(OOM)
    assert trace.address[row] == 5 * MIB, "device_free stands in the place of an address"
    assert trace.stream[row] == 3
    assert trace.stack[1] != NO_STACK
    assert trace.stack[2] == NO_STACK
    assert found.stacks[int(trace.stack[1])][1].name == "forward"
    assert len(found.stacks) == 1, "equal stacks are one"


def test_the_given_values_are_not_changed() -> None:
    plain = ordinary()
    before = copy.deepcopy(plain)
    snapshot_from_plain(plain)
    assert plain == before


def _without(plain: Any, events: tuple[str, ...] = (), top: tuple[str, ...] = ()) -> Any:
    for trace in plain["device_traces"]:
        for entry in trace:
            for key in events:
                entry.pop(key, None)
    for key in top:
        plain.pop(key, None)
    return plain


@pytest.mark.parametrize(
    ("since", "events", "top"),
    [
        ("2.10", ("pool_id",), ()),
        ("2.7", ("pool_id", "user_metadata"), ()),
        ("2.5", ("pool_id", "user_metadata", "compile_context"), ()),
        ("2.3", ("pool_id", "user_metadata", "compile_context"), ("external_annotations",)),
        (
            "2.2",
            ("pool_id", "user_metadata", "compile_context"),
            ("external_annotations", "allocator_settings"),
        ),
        (
            "2.1",
            ("pool_id", "user_metadata", "compile_context", "time_us"),
            ("external_annotations", "allocator_settings"),
        ),
    ],
)
def test_eras(since: str, events: tuple[str, ...], top: tuple[str, ...]) -> None:
    found = snapshot_from_plain(_without(ordinary(), events, top))
    assert found.since == since
    assert len(found.traces[0]) == 6
    if "time_us" in events:
        assert set(found.traces[0].time_us.tolist()) == {UNKNOWN}


def test_torch_2_0_has_no_block_addresses_and_a_history_instead_of_frames() -> None:
    plain = _without(
        ordinary(),
        ("pool_id", "user_metadata", "compile_context", "time_us"),
        ("external_annotations", "allocator_settings"),
    )
    expected = snapshot_from_plain(plain)
    for one in plain["segments"]:
        for key in ("segment_pool_id", "is_expandable", "frames"):
            del one[key]
        for b in one["blocks"]:
            del b["address"]
            frames, requested = b.pop("frames"), b.pop("requested_size")
            if b["state"] == "active_allocated":
                b["history"] = [{"addr": 1, "real_size": requested, "frames": frames}]
    found = snapshot_from_plain(plain)
    assert found.since == "2.0"
    assert found.blocks.address.tolist() == expected.blocks.address.tolist()
    in_use = found.blocks.state == 0
    assert found.blocks.requested_size[in_use].tolist() == expected.blocks.requested_size[in_use].tolist()
    assert found.blocks.stack[in_use].tolist() == [0, 0, 0]


def test_both_names_of_the_pending_state() -> None:
    for name in ("active_pending_free", "active_awaiting_free"):
        one = segment(0, {"address": 0, "size": 512, "requested_size": 1, "state": name, "frames": []})
        assert STATES[snapshot_from_plain([one]).blocks.state[0]] == "active_pending_free"


def test_a_list_of_segments_is_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "segments.pickle"
    path.write_bytes(pickle.dumps(ordinary()["segments"]))
    found = read_snapshot(path)
    assert len(found.segments) == 2
    assert found.traces == ()


def test_unknown_actions_keys_and_host_traces_are_no_obstacle() -> None:
    plain = ordinary()
    plain["host_segments"] = []
    plain["something_new"] = {"deep": [1]}
    plain["device_traces"][0].append(event("invented", 1, brand_new=[1]))
    found = snapshot_from_plain(plain)
    assert ACTIONS[found.traces[0].action[-1]] == "unknown"
    assert found.since == "2.14"


def test_user_metadata_as_text_and_as_dict() -> None:
    labelled = [event("alloc", 1, user_metadata="a"), event("alloc", 1, user_metadata={"k": 2})]
    plain = snapshot(traces=[labelled])
    trace = snapshot_from_plain(plain).traces[0]
    assert [trace.labels[i] for i in trace.label] == ["a", "k=2"]


def test_pool_ids_cut_by_a_frame(tmp_path: Path) -> None:
    """Protocol 4 begins a frame every 64 KiB, wherever that is; once it was in the middle of a tuple."""
    for shift in range(40):
        plain = snapshot(traces=[[event("alloc", i + shift, pool_id=(i % 3, 0)) for i in range(4000)]])
        plain["pad"] = "x" * shift
        path = tmp_path / "cut.pickle"
        path.write_bytes(pickle.dumps({"pad": "x" * shift, **plain}, 4))
        assert len(read_snapshot(path).traces[0]) == 4000


def test_reading_keeps_less_than_the_dicts_would() -> None:
    plain = snapshot(traces=[[event("alloc", i, frames=[]) for i in range(20_000)]])
    trace = snapshot_from_plain(plain).traces[0]
    kept = sum(column.nbytes for name, column in vars(trace).items() if name != "labels")
    assert kept < 80 * len(trace)


def test_reading_a_small_file_imports_nothing_large(tmp_path: Path) -> None:
    path = tmp_path / "small.pickle"
    path.write_bytes(pickle.dumps(ordinary(), 4))
    code = (
        "import sys; from oomdoctor.snapshot import read_snapshot; read_snapshot(sys.argv[1]);"
        "print([m for m in ('torch', 'pandas', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pinned_host_memory(tmp_path: Path) -> None:
    """Torch 2.14 and later, record_pinned_host_memory=True: segments of device -1, one trace for all."""
    plain = ordinary()
    plain["host_segments"] = [segment(0x5500_0000_0000, block(4096), device=-1, small=True)]
    plain["host_traces"] = [
        event("segment_alloc", 4096, addr=0x5500_0000_0000, frames=[USER], compile_context=""),
        event("alloc", 3000, addr=0x5500_0000_0000, frames=[USER], compile_context=""),
    ]
    path = tmp_path / "host.pickle"
    path.write_bytes(pickle.dumps(plain, 4))
    for limits in (Limits(), Limits(streamed_bytes=0)):
        found = read_snapshot(path, limits)
        assert found.host_segments.device.tolist() == [-1]
        assert found.host_blocks.block_size.tolist() == [4096]
        assert [ACTIONS[a] for a in found.host_traces[0].action] == ["segment_alloc", "alloc"]
        assert found.stacks[int(found.host_traces[0].stack[1])][0].filename == USER["filename"]
        assert found.devices() == [0], "the host is no device"
        assert len(found.segments) == 2
        assert found.since == "2.14"
        assert found.notes == ()
    assert snapshot_from_plain(ordinary()).host_traces == ()
    assert len(snapshot_from_plain(ordinary()).host_segments) == 0


def test_forward_frames_and_internal_metadata() -> None:
    lines = ['  File "infer.py", line 3, in loss\n', "    x * x\n"]
    trace = [
        event("alloc", 1, forward_frames=lines),
        event("alloc", 1, internal_metadata="mallocWithAddress"),
        event("alloc", 1),
    ]
    found = snapshot_from_plain(snapshot(traces=[trace]))
    events = found.traces[0]
    assert [events.labels[i] for i in events.forward if i != UNKNOWN] == ["".join(lines)]
    assert [events.labels[i] for i in events.internal if i != UNKNOWN] == ["mallocWithAddress"]
    assert events.forward.tolist()[1:] == [UNKNOWN, UNKNOWN]
    assert (found.since, found.notes) == ("2.15", ())


def test_what_is_newer_than_known_is_noted() -> None:
    assert snapshot_from_plain(ordinary()).notes == ()
    plain = ordinary()
    plain["tpu_segments"] = []
    plain["segments"][0]["blocks"][0]["state"] = "compressed"
    plain["device_traces"][0] += [event("segment_move", 1), event("alloc", 1, numa_node=3)]
    notes = snapshot_from_plain(plain).notes
    assert len(notes) == 4
    for note, name in zip(notes, ("tpu_segments", "numa_node", "segment_move", "compressed")):
        assert name in note


def test_notes_show_no_control_characters_and_have_an_end() -> None:
    plain = ordinary()
    plain.update({f"\x1b[2J{i:03}" + "x" * 500: 1 for i in range(100)})
    (note,) = snapshot_from_plain(plain).notes
    assert note.isprintable()
    assert "92 more" in note
    assert len(note) < 1000


def test_several_devices_keep_their_numbers() -> None:
    plain = snapshot(
        segment(0, block(512), device=2),
        segment(1024, block(512), device=0),
        traces=[[], [event("alloc", 1)], [], []],
    )
    found = snapshot_from_plain(plain)
    assert found.devices() == [0, 1, 2]
    assert [len(trace) for trace in found.traces] == [0, 1, 0, 0]


def test_frames_of_every_kind(tmp_path: Path) -> None:
    """Windows paths, C++ symbols, inductor's and notebooks' files, names that are not ASCII, more fields."""
    stack = [
        frame("c10::cuda::malloc(std::optional<c10::Device>)", "??", 0),
        frame("call", "/tmp/torchinductor_me/xy/cxyz.py", 99),
        frame("<module>", "/tmp/ipykernel_77/12.py", 1),
        frame("été", "C:\\Users\\Jürgen\\模型.py", 12),
        {**frame("forward", "<eval_with_key>.0", 5), "fx_node_op": "output", "fx_node_name": "relu"},
    ]
    path = tmp_path / "frames.pickle"
    path.write_bytes(pickle.dumps(snapshot(traces=[[event("alloc", 1, frames=stack)]]), 4))
    for limits in (Limits(), Limits(streamed_bytes=0)):
        found = read_snapshot(path, limits)
        frames = found.stacks[int(found.traces[0].stack[0])]
        assert [(f.name, f.filename, f.line) for f in frames] == [
            (f["name"], f["filename"], f["line"]) for f in stack
        ]


def test_a_device_number_that_cannot_be() -> None:
    for device in (1 << 16, -2):
        with pytest.raises(ForeignInput, match="device"):
            snapshot_from_plain([segment(0, block(512), device=device)])


def test_labels_have_the_same_numbers_in_every_process() -> None:
    code = """
from oomdoctor.snapshot import snapshot_from_plain
from tests.snapshot.building import event, snapshot
trace = [event("alloc", 1, user_metadata=str(i)) for i in range(50)]
print(snapshot_from_plain(snapshot(traces=[trace])).traces[0].labels)
"""
    said = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parents[2]
        said.add(
            subprocess.run(
                [sys.executable, "-c", code], cwd=root, env=env, capture_output=True, check=True
            ).stdout
        )
    assert len(said) == 1
