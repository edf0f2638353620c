from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeface_devices.bench import litert_events
from edgeface_devices.bench.operators import Operator, OperatorProfile, profile, profile_here
from edgeface_runtime import ModelError, UsageError, load
from edgeface_runtime.model import as_input, find_model, probe_images


def test_onnxruntime_names_each_operator_that_it_runs(tiny_onnx: Path):
    found = profile(tiny_onnx, calls=7)
    assert (found.engine, found.engine_version) == ("onnxruntime", load(tiny_onnx).engine.version)
    kinds = [operator.kind for operator in found.operators]
    # Conv with the Relu fused into it; changes of layout may come between.
    assert {"Transpose", "Conv", "GlobalAveragePool", "Flatten"} <= {kind.removeprefix("Fused") for kind in kinds}
    assert "Relu" not in kinds


def test_litert_names_the_operators_inside_its_delegate(tiny_tflite: Path):
    found = profile(tiny_tflite, calls=7)
    kinds = " ".join(operator.kind for operator in found.operators)
    assert "Convolution (NHWC, F32)" in kinds
    assert "Mean" in kinds or "Reduce" in kinds or "Pool" in kinds or "Sum" in kinds


@pytest.mark.parametrize("name", ["mobilefacenet.onnx", "mobilefacenet.tflite"])
def test_the_operators_of_a_face_model_take_time(name: str):
    # Profilers count whole microseconds: a tiny net's operators may take none.
    found = profile(find_model(name), calls=5)
    assert found.total_ms > 0
    assert found.cpu_ms > 0
    assert sum(ms for _, _, ms in found.by_kind()) == pytest.approx(found.total_ms)


def test_the_profiled_session_of_litert_computes_what_the_interpreter_does(tiny_tflite: Path):
    model = load(tiny_tflite)
    session = litert_events.Session(tiny_tflite.read_bytes(), threads=1)
    for face in probe_images(32)[:, None]:
        values = as_input(face, model.contract.input)
        np.testing.assert_array_equal(session.run(values, 8), model.engine.run(values)[0][0])
        _, operators = session.profile(values, 8)
        assert operators


class Other:
    """An engine whose answer is not that of its file."""

    def __init__(self, engine) -> None:
        self.name, self.version, self.input_shape = engine.name, engine.version, engine.input_shape

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        return [np.eye(1, 8, dtype=np.float32)]


@pytest.mark.parametrize("fixture", ["tiny_onnx", "tiny_tflite"])
def test_a_profile_of_other_kernels_is_refused(fixture: str, request: pytest.FixtureRequest):
    model = load(request.getfixturevalue(fixture))
    with pytest.raises(ModelError, match="computes something else"):
        profile_here(replace(model, engine=Other(model.engine)), threads=1, calls=2)


def test_an_engine_without_a_profiler_says_so(tiny_onnx: Path):
    model = load(tiny_onnx)
    engine = Other(model.engine)
    engine.name = "another"
    with pytest.raises(UsageError, match="another has no profiler"):
        profile_here(replace(model, engine=engine), threads=1, calls=2)


def test_a_library_without_the_profiler_is_named(tiny_tflite: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(litert_events, "_library", SimpleNamespace)
    with pytest.raises(UsageError, match=r"ai-edge-litert 2\.3.*has no LiteRtCreateEnvironment"):
        litert_events.Session(tiny_tflite.read_bytes(), threads=1)


def test_input_of_another_size_never_reaches_the_library(tiny_tflite: Path):
    session = litert_events.Session(tiny_tflite.read_bytes(), threads=1)
    with pytest.raises(ModelError, match="takes 12288 bytes"):
        session.run(np.zeros((1, 16, 16, 3), np.float32), 8)


def test_events_of_an_unknown_layout_are_not_read(tiny_tflite: Path, monkeypatch: pytest.MonkeyPatch):
    class Smaller(ctypes.Structure):
        _fields_ = litert_events._Event._fields_[:6]

    monkeypatch.setattr(litert_events, "_Event", Smaller)
    session = litert_events.Session(tiny_tflite.read_bytes(), threads=1)
    values = np.zeros((1, 32, 32, 3), np.float32)
    with pytest.raises(UsageError, match="cannot be read"):
        session.profile(values, 8)


@pytest.mark.parametrize(("options", "message"), [({"calls": 0}, "calls is 0"), ({"threads": 0}, "threads is 0")])
def test_numbers_below_one_are_refused(options: dict[str, int], message: str, tiny_onnx: Path):
    with pytest.raises(UsageError, match=message):
        profile(tiny_onnx, **options)


def test_a_process_that_dies_is_named(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch):
    from edgeface_devices.bench.process import Worker

    ask = Worker.profile

    def killed(worker: Worker, calls: int) -> object:
        os.kill(worker.process.pid, signal.SIGKILL)
        return ask(worker, calls)

    monkeypatch.setattr(Worker, "profile", killed)
    with pytest.raises(ModelError, match=r"tiny\.onnx.*SIGKILL"):
        profile(tiny_onnx, calls=2)


def made(*operators: Operator) -> OperatorProfile:
    about = {"engine": "onnxruntime", "engine_version": "1", "threads": 1, "calls": 9}
    return OperatorProfile(path=Path("net.onnx"), precision="fp32", cpu_ms=10.0, operators=operators, **about)


def test_kinds_add_up_and_the_slowest_come_first():
    found = made(Operator("a", "Conv", 1.0), Operator("b", "Add", 3.0), Operator("c", "Conv", 4.0))
    assert found.total_ms == 8.0
    assert found.by_kind() == [("Conv", 2, 5.0), ("Add", 1, 3.0)]
    assert [(place, operator.name) for place, operator in found.slowest(2)] == [(3, "c"), (2, "b")]
    (_, kinds), (_, slowest) = found.tables()
    assert kinds[0] == ["Conv", "2", "5.000", "62.5 %"]
    assert slowest[0] == ["3 c", "Conv", "4.000", "50.0 %"]
    document = found.as_json()
    assert document["kinds"][1] == {"kind": "Add", "operators": 1, "ms": 3.0}
    assert document["operators"][0] == {"name": "a", "kind": "Conv", "ms": 1.0}


def test_a_graph_that_takes_no_time_has_no_shares():
    assert made(Operator("a", "Cast", 0.0)).tables()[0][1] == [["Cast", "1", "0.000", "–"]]
