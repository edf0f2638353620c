from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import ModelError, UsageError
from edgeface_runtime.engines import muted_stderr, open_engine


def test_each_format_opens_in_its_engine(tiny_onnx: Path, tiny_tflite: Path):
    onnx, tflite = open_engine(tiny_onnx), open_engine(tiny_tflite)
    assert (onnx.name, onnx.input_shape) == ("onnxruntime", (None, 32, 32, 3))
    assert (tflite.name, tflite.input_shape) == ("litert", (1, 32, 32, 3))
    assert onnx.version.split(".")[0].isdigit()
    assert tflite.version.split(".")[0].isdigit()
    faces = np.random.default_rng(0).normal(0, 1, (1, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(onnx.run(faces)[0], tflite.run(faces)[0], atol=1e-5)


def test_the_bytes_choose_the_engine_not_the_name(tiny_onnx: Path, tmp_path: Path):
    (tmp_path / "liar.tflite").write_bytes(tiny_onnx.read_bytes())
    assert open_engine(tmp_path / "liar.tflite").name == "onnxruntime"


@pytest.mark.parametrize("data", [b"", b"text", b"\x1c\0\0\0TFL3" + b"\0" * 64])
def test_what_an_engine_does_not_take_is_one_line(data: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ModelError, match=r"bad: (onnxruntime|litert) cannot open it: ") as caught:
        open_engine(tmp_path / "bad")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_no_such_file(tmp_path: Path):
    with pytest.raises(ModelError, match=r"none.onnx: No such file"):
        open_engine(tmp_path / "none.onnx")


def test_the_engines_are_silent(tiny_onnx: Path, tiny_tflite: Path):
    code = "import sys; from edgeface_runtime import load; [load(path) for path in sys.argv[1:]]"
    command = [sys.executable, "-W", "error", "-c", code, str(tiny_onnx), str(tiny_tflite)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_engine_is_named_with_its_package(
    tiny_onnx: Path, tiny_tflite: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in ("onnxruntime", "ai_edge_litert.interpreter", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"onnxruntime cannot be imported .*; pip install onnxruntime$"):
        open_engine(tiny_onnx)
    with pytest.raises(UsageError, match=r"; pip install ai-edge-litert$"):
        open_engine(tiny_tflite)


class FakeInterpreter:
    """As much of tflite-runtime's interpreter as opening a file needs."""

    def __init__(self, model_content: bytes, num_threads: int) -> None:
        self.opened = (model_content, num_threads)

    def allocate_tensors(self) -> None:
        pass

    def get_input_details(self) -> list[dict[str, object]]:
        return [{"index": 0, "shape_signature": np.array([-1, 4, 4, 3]), "shape": np.array([1, 4, 4, 3])}]

    def get_output_details(self) -> list[dict[str, object]]:
        return [{"index": 1}]


@pytest.fixture
def only_tflite_runtime(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    package = types.ModuleType("tflite_runtime")
    package.interpreter = types.ModuleType("tflite_runtime.interpreter")
    package.interpreter.Interpreter = FakeInterpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", package)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", package.interpreter)
    return monkeypatch


def test_tflite_runtime_serves_where_there_is_no_litert(only_tflite_runtime: pytest.MonkeyPatch, tiny_tflite: Path):
    only_tflite_runtime.setattr(np, "__version__", "1.26.4")
    assert open_engine(tiny_tflite).input_shape == (None, 4, 4, 3)


def test_tflite_runtime_under_numpy_2_is_told_before_it_dies(
    only_tflite_runtime: pytest.MonkeyPatch, tiny_tflite: Path
):
    only_tflite_runtime.setattr(np, "__version__", "2.1.0")
    with pytest.raises(UsageError, match="tflite-runtime needs numpy below 2; install ai-edge-litert"):
        open_engine(tiny_tflite)


def test_muting_covers_native_writes_and_ends(capfd: pytest.CaptureFixture[str]):
    with muted_stderr():
        os.write(2, b"noise")
        with muted_stderr():
            os.write(2, b"more noise")
        os.write(2, b"noise")
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_muting_ends_when_something_is_raised(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(KeyError), muted_stderr():
        raise KeyError
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_closed_stderr_does_no_harm(tiny_tflite: Path):
    code = "import os, sys; os.close(2); from edgeface_runtime import load; load(sys.argv[1]); print('opened')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_tflite)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "opened\n")
