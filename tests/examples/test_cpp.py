"""The C++ reader of model files, built with sanitizers, against the Python runtime as the oracle."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime.contract import Contract, EmbeddingSpec, Golden, InputSpec, read_contract
from edgeface_runtime.metadata import read_text
from edgeface_runtime.model import PROBES, as_input, load, probe_images, shipped

ROOT = Path(__file__).parents[2]
FLAGS = [
    "-std=c++17",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]
SHIPPED = [item.file for item in shipped()]
Read = Callable[..., bytes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """The reader, called with words."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("cpp") / "reader"
    source = Path(__file__).with_name("reader.cpp")
    subprocess.run(["g++", *FLAGS, f"-I{ROOT / 'examples' / 'cpp'}", str(source), "-o", str(program)], check=True)
    return lambda *words: subprocess.run([program, *map(str, words)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def read(run: Callable[..., subprocess.CompletedProcess[bytes]]) -> Read:
    """What the reader prints where all is well."""

    def ask(*words: object) -> bytes:
        done = run(*words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return ask


def told(contract: Contract) -> list[float | str]:
    """What ``reader tell`` prints of a contract."""
    spec, golden = contract.input, contract.golden
    flags = f"{spec.layout == 'NCHW':d}{spec.dtype == 'float32':d}{spec.colour == 'BGR':d}"
    lines: list[float | str] = [contract.name, contract.precision, contract.licence, spec.size, flags]
    lines.append(contract.embedding.length)
    lines += [number for pair in zip(spec.mean, spec.std, strict=True) for number in pair]
    known = sorted((float(far), entry["value"]) for far, entry in contract.thresholds.items() if entry)
    lines += [number for pair in known for number in pair]
    lines.append(golden.min_cosine if golden else 0)
    return lines + [number for row in (golden.embeddings if golden else ()) for number in row]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_the_contract_is_that_of_python(read: Read, file: Path):
    expected = told(read_contract(file))
    lines = read("tell", file).decode().split("\n")
    assert lines[:3] == expected[:3]
    assert lines[4] == expected[4]
    found = [float(number) for line in (lines[3], *lines[5:]) for number in line.split()]
    np.testing.assert_allclose(found, [expected[3], *expected[5:]], rtol=1e-6)
    assert len(found) > 4 * 128


def test_the_text_is_read_from_every_place_that_holds_one(
    read: Read, tiny_onnx: Path, tiny_tflite: Path, behind_tflite: Path, ncnn_file: Path
):
    for file in (*SHIPPED, tiny_onnx, tiny_tflite, ncnn_file):
        assert read("text", file).decode() == read_text(file), file.name
    assert read("text", behind_tflite).decode() == read_text(tiny_tflite)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_preprocessing_follows_the_contract(
    read: Read, make_onnx: Callable[..., Path], tmp_path: Path, layout: str, colour: str, dtype: str
):
    spec = InputSpec(size=8, layout=layout, colour=colour, dtype=dtype, mean=(10, 20.5, 30), std=(40, 50, 57.375))
    model = make_onnx(tmp_path / "net.onnx", input=spec)
    face = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    (tmp_path / "face").write_bytes(face.tobytes())
    expected = as_input(face[None], spec)
    found = np.frombuffer(read("input", model, tmp_path / "face"), expected.dtype)
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("size", [32, 112])
def test_probe_images_are_the_same_bytes(read: Read, size: int):
    for k, image in enumerate(probe_images(size)):
        assert read("probe", k, size) == image.tobytes()


def test_golden_vectors_are_compared_as_python_does(read: Read, tmp_path: Path):
    model = load(SHIPPED[0])
    probes = probe_images(model.contract.input.size)
    answers = model.embed(probes)
    (tmp_path / "same").write_bytes((7 * answers).tobytes())  # of another length than 1
    assert float(read("golden", SHIPPED[0], tmp_path / "same")) == pytest.approx(model.golden_cosine(), abs=1e-6)
    answers[2] = answers[1]
    (tmp_path / "other").write_bytes(answers.tobytes())
    expected = float(answers[1] @ np.array(model.contract.golden.embeddings[2], np.float32))
    assert float(read("golden", SHIPPED[0], tmp_path / "other")) == pytest.approx(expected, abs=1e-5)


def test_whatever_is_done_to_a_file_reading_it_stays_inside(
    read: Read, tiny_onnx: Path, tiny_tflite: Path, behind_tflite: Path, ncnn_file: Path
):
    said: set[str] = set()
    for file in (tiny_onnx, tiny_tflite, behind_tflite, ncnn_file):
        lines = read("torture", file).decode().splitlines()
        assert len(lines) > 3, file.name  # it did go wrong, and in several ways
        said.update(lines)
    assert "the contract is not JSON" in said
    assert "not a whole model: a field runs past the end" in said


def test_what_is_no_contract_is_said_in_a_line(run: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path):
    whole = SHIPPED[1].read_bytes()
    text = read_text(SHIPPED[1])
    cases = {
        "empty": (b"", "the file is empty"),
        "letter": (b"a letter, not a model", "neither an ONNX nor a TFLite model"),
        "bare": (whole.replace(b"\x0a\x08edgeface", b"\x0a\x08somebody"), "carries no edgeface contract"),
        "newer": (whole.replace(b'"schema":1', b'"schema":2'), "newer schema: update this reader"),
        "layout": (whole.replace(b'"NHWC"', b'"NWHC"'), "input.layout is neither NHWC nor NCHW"),
        "size": (whole.replace(b'"size":112', b'"size":0.5'), "input.size is out of range"),
        "length": (whole.replace(b'"length":128', b'"length":127'), "golden.embeddings has another length"),
    }
    assert '"size":112' in text
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        done = run("tell", tmp_path / name)
        assert done.returncode == 2, name
        assert message in done.stderr.decode(), (name, done.stderr)
    assert "cannot be opened" in run("tell", tmp_path / "absent").stderr.decode()


@pytest.mark.parametrize(
    "text", ["", "{", '{"a":1,}', "[1 2]", "01x", '"\\x"', '"\n"', "nul", "1e999", "[" * 100, "-", "1."]
)
def test_what_is_no_json_is_refused(run: Callable[..., subprocess.CompletedProcess[bytes]], text: str):
    assert run("json", text).returncode == 2


@pytest.mark.parametrize("text", ["", "plain", 'quote " slash \\ line \n tab \t', "Übergröße", "日本", "😀 \x7f"])
def test_strings_are_those_of_python(read: Read, text: str):
    for escaped in (True, False):
        assert read("json", json.dumps(text, ensure_ascii=escaped)).decode() == text


def test_a_contract_without_golden_vectors_or_thresholds_is_read(
    run: Callable[..., subprocess.CompletedProcess[bytes]], make_onnx: Callable[..., Path], tmp_path: Path
):
    bare = make_onnx(tmp_path / "bare.onnx", thresholds={"0.001": None})
    assert run("tell", bare).returncode == 0
    assert "no golden vectors" in run("golden", bare, bare).stderr.decode()
    other = Golden(probes=f"{PROBES}-newer", embeddings=((1.0,) + (0.0,) * 7,) * 4, min_cosine=0.9)
    newer = make_onnx(tmp_path / "newer.onnx", golden=other, embedding=EmbeddingSpec(length=8))
    assert "update this reader" in run("tell", newer).stderr.decode()
