"""Who is faster, by a clock that the test turns; and what is said where int8 is not."""

from __future__ import annotations

import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeface_export import gate
from edgeface_export.gate import CALLS, compare_speed
from edgeface_export.result import ExportResult, fastest

if TYPE_CHECKING:
    from conftest import Trained


@dataclass
class Clock:
    now: int = 0

    def thread_time_ns(self) -> int:
        return self.now


@dataclass
class Timed:
    """A model that takes as long as told, one call after the other."""

    clock: Clock
    takes_ms: list[float]
    contract: Any
    calls: int = 0

    def embed(self, faces: np.ndarray) -> None:
        assert faces.shape == (1, 16, 16, 3)
        self.clock.now += int(1e6 * self.takes_ms[self.calls % len(self.takes_ms)])
        self.calls += 1


def test_calls_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr(gate, "time", clock)
    contract = types.SimpleNamespace(input=types.SimpleNamespace(size=16))
    # The first calls, which fill caches, are slow and do not count; nor does one slow call among many.
    slow, quick = Timed(clock, [90, 90, 90, *[4] * (CALLS - 1), 500], contract), Timed(clock, [3], contract)
    assert compare_speed([slow, quick]) == pytest.approx([4, 3])  # type: ignore[list-item]
    assert slow.calls == quick.calls == CALLS + 3


def made(trained: Trained, **ratios: float) -> ExportResult:
    """The session's export with other times: ``int8_onnx=1.2`` is that file's time divided by fp32's."""
    files = tuple(
        replace(file, latency_ratio=ratio, cpu_ms=10 * ratio)
        for file in trained.export.files
        for ratio in [ratios.get(f"{file.precision}_{file.format}", 1.0)]
    )
    recommended = {kind: fastest([file for file in files if file.format == kind]) for kind in ("onnx", "tflite")}
    return replace(trained.export, files=files, recommended=recommended)


def test_where_int8_is_not_faster_another_file_is_recommended(trained: Trained):
    export = made(trained, int8_onnx=1.2, int8_tflite=0.5)
    assert export.advice == [
        "mobilefacenet.int8.onnx is not faster than fp32 on this machine (1.20 of its time): "
        "take mobilefacenet.fp32.onnx here"
    ]
    assert export.as_json()["recommended"] == {
        "onnx": str(trained.file("fp32", "onnx")), "tflite": str(trained.file("int8", "tflite"))
    }  # fmt: skip
    alone = [file for file in export.files if file.precision == "int8"]
    lone = replace(export, files=tuple(alone), recommended={"onnx": fastest(alone[:1])})
    assert lone.advice[0].endswith("take an fp32 file here")
    assert made(trained, int8_onnx=0.6, int8_tflite=0.5).advice == []


def test_the_file_to_take_for_each_engine_is_said(trained: Trained):
    export = made(trained, fp32_onnx=1.0, int8_onnx=1.2, fp32_tflite=1.0, int8_tflite=0.5)
    drops = {file.path.name: f"{file.drop.points:+.3f} points" for file in export.files}
    first, second = "mobilefacenet.fp32.onnx", "mobilefacenet.int8.tflite"
    assert export.choice == [
        f"for onnxruntime take {first}: 10.0 ms of processor time a face here, drop {drops[first]}",
        f"for LiteRT take {second}: 5.0 ms of processor time a face here, drop {drops[second]}",
    ]


def test_of_nearly_equal_files_the_smallest_is_recommended(trained: Trained):
    assert made(trained, int8_onnx=1.03).recommended["onnx"] == trained.file("int8", "onnx")
    assert made(trained, int8_onnx=1.2).recommended["onnx"] == trained.file("fp32", "onnx")


def test_each_exported_file_was_timed(trained: Trained):
    for file in trained.export.files:
        row = file.as_json()
        assert row["cpu_ms"] > 0
        assert row["latency_ratio"] > 0
        assert isinstance(file.path, Path)
