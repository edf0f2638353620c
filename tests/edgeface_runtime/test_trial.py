"""A model file that is none of edgeface's own is opened in a process of its own first, which a stand-in kills here."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeface.cli import run
from edgeface_runtime import ModelError, trial
from edgeface_runtime.contract import Golden
from edgeface_runtime.model import find_model, tried_model


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def killed_by(name: str) -> tuple[str, ...]:
    return child(
        f"import os, resource, signal; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
        f"os.kill(os.getpid(), signal.{name})"
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeface" / "tried-models.txt"


@pytest.mark.parametrize("verb", ["identify", "inspect", "eval"])
def test_an_engine_that_crashes_is_one_line(
    verb: str, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(trial, "COMMAND", killed_by("SIGSEGV"))
    (tmp_path / "people.gallery").touch()
    command = {
        "identify": ["identify", "door.jpg", "-g", str(tmp_path / "people.gallery"), "-m", str(tiny_onnx)],
        "inspect": ["inspect", str(tiny_onnx)],
        "eval": ["eval", str(tiny_onnx), "--data", str(tmp_path)],
    }[verb]
    assert run(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"edgeface: {tiny_onnx}: onnxruntime ")
    assert "ended by signal SIGSEGV while it opened this file; take another file" in line


@pytest.mark.parametrize(
    ("name", "remedy"), [("SIGILL", "an instruction"), ("SIGABRT", "another"), ("SIGKILL", "memory")]
)
def test_what_to_do_goes_by_the_signal(name: str, remedy: str, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "COMMAND", killed_by(name))
    for _ in range(2):  # it is not remembered for good
        with pytest.raises(ModelError, match=f"signal {name} .*{remedy}"):
            tried_model(tiny_onnx)


def test_a_file_is_tried_once(make_onnx: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = make_onnx(tmp_path / "first.onnx")
    assert tried_model(first) == first
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700
    assert len(cache.read_text().splitlines()) == 1
    monkeypatch.setattr(trial, "COMMAND", killed_by("SIGABRT"))
    assert tried_model(shutil.copy(first, tmp_path / "second.onnx")) == tmp_path / "second.onnx"
    for known in (find_model(), shutil.copy(find_model(), tmp_path / "copy.tflite"), tmp_path):
        tried_model(known)  # edgeface's own files and their copies are known, and a folder is a run
    with pytest.raises(ModelError, match="SIGABRT"):
        tried_model(make_onnx(tmp_path / "first.onnx", seed=1))
    cache.unlink()
    with pytest.raises(ModelError, match="SIGABRT"):
        tried_model(tmp_path / "second.onnx")


@pytest.mark.parametrize("left", ["folder", "bytes", "large", "no folder"])
def test_a_memory_that_cannot_be_used_costs_a_start_alone(
    left: str, tiny_onnx: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trial, "COMMAND", child(""))
    cache.parent.parent.mkdir()
    if left == "no folder":
        cache.parent.touch()
    else:
        cache.parent.mkdir()
    if left == "folder":
        cache.mkdir()
    elif left == "bytes":
        cache.write_bytes(bytes(range(256)) * 20)
    elif left == "large":
        cache.write_bytes(b"a\n" * 10**6)
    for _ in range(2):
        assert tried_model(tiny_onnx) == tiny_onnx
    if cache.is_file():
        assert cache.stat().st_size < 20_000


def test_the_memory_is_bounded(tiny_onnx: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial, "COMMAND", child(""))
    cache.parent.mkdir(parents=True)
    cache.write_text("".join(f"{number:064x} onnxruntime 1.0\n" for number in range(trial.MOST)))
    tried_model(tiny_onnx)
    lines = cache.read_text().splitlines()
    assert len(lines) == trial.MOST
    assert lines[0].startswith(f"{1:064x}")


def test_a_file_that_is_refused_is_refused_as_ever(
    make_onnx: Any, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    assert run(["inspect", str(bad)]) == 2
    assert "signal" not in capsys.readouterr().err
    golden = Golden(probes="edgeface-waves-1", embeddings=((1.0,) * 8,) * 4, min_cosine=0.99)
    changed = make_onnx(tmp_path / "changed.onnx", golden=golden)
    changed.write_bytes(changed.read_bytes().replace(b"waves-1", b"waves-2"))
    assert run(["inspect", str(changed)]) == 1
    assert "its digest differs" in capsys.readouterr().err
    assert not cache.exists()
