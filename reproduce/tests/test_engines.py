"""What tries the files in each engine, with the engines that are installed here."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime.contract import read_contract
from edgeface_runtime.engines import open_engine
from edgeface_runtime.model import find_model
from reproduce.engines import page, probes
from reproduce.engines.environments import NotInstalledError, prepare
from reproduce.engines.files import ModelFile
from reproduce.engines.manifest import Engine, load_manifest
from reproduce.engines.trial import Trial, attempt, fingerprint, keep, known_trial

ENGINES = {
    "onnx": Engine(name="onnxruntime", version="1.0", reads=("onnx",), probe="onnxruntime", pip=("x==1",)),
    "tflite": Engine(name="LiteRT", version="2.0", reads=("tflite",), probe="litert", pip=("x==1",), is_reference=True),
}


def shipped_file(kind: str) -> ModelFile:
    path = find_model(f"mobilefacenet-tiny.{kind}")
    return ModelFile(path, read_contract(path))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An environment whose Python is this one."""
    return environment(tmp_path / "here", f'exec {sys.executable} "$@"')


def environment(folder: Path, script: str) -> Path:
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


def test_the_manifest_names_probes_that_are_there_and_pins_everything():
    engines = load_manifest()
    known = {function.__name__ for function in probes.PROBES} | {"node", "browser"}
    assert {engine.probe.partition(":")[0] for engine in engines} == known
    assert {kind for engine in engines if engine.is_reference for kind in engine.reads} == {"onnx", "tflite", "ncnn"}
    assert len({engine.slug for engine in engines}) == len(engines)
    assert all(engine.mind for engine in engines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('pip = ["x"]', "x of A has no version"),
        ('pip = ["x=={version}"]\nwheels = 1', "unknown keys: wheels"),
        ('pip = ["x=={version}"]\nreference = "3"', "A 3 is a reference and no version"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(tmp_path: Path, change: str, message: str):
    path = tmp_path / "engines.toml"
    path.write_text(f'[[engine]]\nname = "A"\nreads = ["onnx"]\nprobe = "onnxruntime"\nversions = ["1"]\n{change}\n')
    with pytest.raises(ValueError, match=message):
        load_manifest(path)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_trial_gives_what_the_engine_computes(here: Path, kind: str):
    file = shipped_file(kind)
    trial = attempt(ENGINES[kind], file, here)
    assert trial.outcome == "ran", trial.said
    engine = open_engine(file.path)
    expected = [engine.run(image[None])[0][0] for image in file.images()]
    np.testing.assert_array_equal(np.float32(trial.outputs), expected)
    assert file.golden_cosine(trial.outputs) > 0.999
    assert file.golden_cosine(trial.outputs[::-1]) < 0.999
    assert file.golden_cosine(trial.outputs[:3]) == -1


def test_how_an_engine_fails_is_told_apart(here: Path, tmp_path: Path):
    file, engine = shipped_file("onnx"), ENGINES["onnx"]
    assert attempt(replace(engine, probe="litert"), file, here).outcome == "refused"
    absent = attempt(
        replace(engine, probe="openvino"), file, environment(tmp_path / "x", f'exec {sys.executable} -S "$@"')
    )
    assert absent.outcome == "crashed"  # not even numpy
    assert "No module named" in absent.said
    assert attempt(engine, file, environment(tmp_path / "dead", "kill -9 $$")).outcome == "crashed"
    assert attempt(engine, file, environment(tmp_path / "slow", "exec sleep 30"), limit_s=0.2).outcome == "too slow"


def test_what_was_tried_is_known_until_the_file_or_the_packages_change(tmp_path: Path):
    file, engine = shipped_file("onnx"), ENGINES["onnx"]
    assert known_trial(engine, file, tmp_path) is None
    trial = Trial("ran", "", [[1.0]], fingerprint(engine, file))
    keep(engine, file, tmp_path, trial)
    assert known_trial(engine, file, tmp_path) == trial
    assert known_trial(replace(engine, pip=("x==2",)), file, tmp_path) is None
    changed = tmp_path / file.path.name
    changed.write_bytes(file.path.read_bytes() + b"\0")
    assert known_trial(engine, replace(file, path=changed), tmp_path) is None


def test_an_engine_that_cannot_be_installed_is_said(tmp_path: Path):
    engine = replace(ENGINES["onnx"], pip=(str(tmp_path / "absent-1.0-py3-none-any.whl"),))
    with pytest.raises(NotInstalledError):
        prepare(engine, tmp_path)
    place = tmp_path / engine.environment
    assert not (place / ".ready").exists()
    (place / ".ready").touch()
    assert prepare(engine, tmp_path) == place


def test_the_page_has_a_row_for_each_run_of_versions_that_answer_alike(tmp_path: Path):
    file = shipped_file("tflite")
    golden = [list(row) for row in file.contract.golden.embeddings]
    wrong = [golden[1], *golden[1:]]
    near = [[golden[0][0] + 0.01, *golden[0][1:]], *golden[1:]]
    base = ENGINES["tflite"]
    found = {
        base: Trial("ran", "", golden),
        replace(base, version="1.9", is_reference=False): Trial("ran", "", golden),
        replace(base, version="1.8", is_reference=False): Trial("ran", "", near),
        replace(base, name="other", version="5", is_reference=False, mind="take care"): Trial("ran", "", wrong),
        replace(base, name="none", version="6", is_reference=False): Trial("refused", "will not"),
    }
    made = page.tables(list(found), [file], {(engine, file.path): trial for engine, trial in found.items()})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in made.splitlines() if line[:1] == "|"]
    assert rows[0] == ["engine", "version", "mobilefacenet-tiny int8", "to mind"]
    assert rows[2] == ["LiteRT", "2.0 to 1.9 (2 tried)", "1.0000 =", ""]
    assert rows[3][1:3] == ["1.8", "0.9999"]
    assert rows[4][0] == "other"
    assert rows[4][2].startswith("**0.") or rows[4][2].startswith("**-")
    assert rows[4][3] == "take care"
    assert rows[5] == ["none", "6", "refused", ""]
    target = tmp_path / "page.md"
    target.write_text(f"before\n{page.MARKS[0]}old\n{page.MARKS[1]}after\n")
    page.rewrite(target, made)
    assert target.read_text() == f"before\n{page.MARKS[0]}{made}{page.MARKS[1]}after\n"
