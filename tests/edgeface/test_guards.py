"""What comes from outside runs no code and writes nothing outside its folder; each with a harmless stand-in."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeface.cli import run
from edgeface_runtime import Contract, EmbeddingSpec, UsageError

ROOT = Path(__file__).parents[2]
FOLDERS = ("edgeface", "export", "devices", "runtime", "examples", "scripts", "benchmarks", "reproduce")
UNPICKLES = {"load", "loads", "Unpickler", "read_pickle"}


def calls() -> Iterator[tuple[str, str, str, ast.Call]]:
    """Place, module or variable, function and call of each ``a.b(…)`` of the repository, its tests left out."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", owner, node.func.attr, node


def test_no_file_is_unpickled():
    found, torch_loads = [], 0
    for place, owner, name, call in calls():
        options = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        if owner in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pandas") and name in UNPICKLES:
            found.append(place)
        if (owner, name) == ("torch", "load"):
            torch_loads += 1
            found += [] if options.get("weights_only") is True else [place]
        if options.get("allow_pickle") not in (None, False):
            found.append(place)
    assert found == []
    assert torch_loads >= 2  # the search sees them


def test_a_checkpoint_whose_name_has_path_parts_writes_nothing(tmp_path: Path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from edgeface_export.source_model import torch_source

    for name in ("../theirs", "/tmp/theirs", "a/b", ""):
        contract = Contract(name=name, backbone="tiny", embedding=EmbeddingSpec(length=8))
        with pytest.raises(UsageError, match="cannot begin the name of a file"):
            torch_source(torch.nn.Identity(), contract)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../mobilefacenet", "models/../../mobilefacenet", "mobilefacenet/../x", ".."])
def test_a_model_name_with_path_parts_is_no_shipped_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert run(["inspect", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edgeface: {name}: ")


@pytest.mark.parametrize("verb", ["doctor", "bench"])
def test_a_host_that_begins_with_a_dash_is_no_option_of_ssh(
    verb: str, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words = [verb, *([str(tiny_onnx)] if verb == "bench" else []), "--host=-oProxyCommand=true"]
    assert run(words) == 2
    assert "'-oProxyCommand=true' is no host name" in capsys.readouterr().err
    assert not (tmp_path / "called").exists()


def test_of_an_archive_only_what_was_asked_for_is_written_and_nothing_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spec = importlib.util.spec_from_file_location("npm_package", ROOT / "scripts" / "npm_package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    archive = tmp_path / "stand-in.tgz"
    with tarfile.open(archive, "w:gz") as made:
        for name in ("package/wanted.js", "package/other.js", "package/../../outside.js", "/absolute.js"):
            entry = tarfile.TarInfo(name)
            entry.size = 2
            made.addfile(entry, io.BytesIO(b"ok"))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ncp {archive} stand-in.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    target = tmp_path / "target"
    with pytest.raises(SystemExit, match="not used"):
        module.fetch("stand-in@1", "another digest", ["wanted.js"], target)
    assert not target.exists()
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    module.fetch("stand-in@1", digest, ["wanted.js", "../../outside.js"], target)
    assert sorted(path.name for path in target.iterdir()) == ["outside.js", "wanted.js"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "stand-in.tgz", "target"]
