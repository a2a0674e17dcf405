"""Figures as they are sent: what plotly.js reads is what was drawn."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from dash._utils import to_json
from oomdoctor_dashboard.figures.drawing import drawing, sent


def read(value: Any) -> list[Any]:
    """As plotly.js reads an array."""
    if isinstance(value, dict):
        return np.frombuffer(base64.b64decode(value["bdata"]), "<" + value["dtype"]).tolist()
    return list(value)


@pytest.mark.parametrize("kind", ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u4", "u8", ">f8", ">i4"])
def test_arrays_arrive_as_they_were(kind: str) -> None:
    values = np.array([0, 1, 7, 100], kind)
    (trace,) = sent(drawing([{"x": values, "y": values[::2]}], {}))["data"]
    assert read(trace["x"]) == [0, 1, 7, 100]
    assert read(trace["y"]) == [0, 7]


def test_what_is_no_array_is_left_alone() -> None:
    layout = {"height": 5}
    figure = drawing([{"x": [1, None], "meta": {"a": 1}, "y": np.zeros(0)}], layout)
    out = sent(figure)
    assert out == {"data": [{"x": [1, None], "meta": {"a": 1}, "y": []}], "layout": layout}
    assert isinstance(figure["data"][0]["y"], np.ndarray), "a copy"


def test_gaps_are_sent() -> None:
    values = np.array([1.5, np.nan])
    (trace,) = sent(drawing([{"x": values}], {}))["data"]
    assert np.array_equal(read(trace["x"]), values, equal_nan=True)
    assert "bdata" in to_json(trace)
