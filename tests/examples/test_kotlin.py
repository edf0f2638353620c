"""The Kotlin reader of model files, against the Python runtime as the oracle."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime.contract import InputSpec, read_contract
from edgeface_runtime.metadata import read_text
from edgeface_runtime.model import as_input, load, probe_images, shipped

ROOT = Path(__file__).parents[2]
SHIPPED = [item.file for item in shipped()]
Ask = Callable[..., list[str]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Answers to questions, each a tuple of words."""
    if shutil.which("kotlinc") is None or shutil.which("java") is None:
        pytest.skip("needs kotlinc and java")
    program = tmp_path_factory.mktemp("kotlin") / "reader.jar"
    sources = [ROOT / "examples" / "kotlin" / "Edgeface.kt", Path(__file__).with_name("Reader.kt")]
    subprocess.run(["kotlinc", *sources, "-include-runtime", "-d", program], check=True, capture_output=True)

    def answers(*questions: tuple[object, ...]) -> list[str]:
        lines = "".join("\t".join(map(str, words)) + "\n" for words in questions)
        done = subprocess.run(["java", "-jar", program], input=lines, capture_output=True, text=True, check=True)
        found = done.stdout.splitlines()
        assert len(found) == len(questions)
        return found

    return answers


def digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_contract_text_and_probes_are_those_of_python(
    ask: Ask, tiny_onnx: Path, tiny_tflite: Path, behind_tflite: Path, ncnn_file: Path
):
    files = [*SHIPPED, tiny_onnx, tiny_tflite, ncnn_file]
    probes = probe_images(112)
    found = ask(
        *(("tell", file) for file in SHIPPED),
        *(("text", file) for file in (*files, behind_tflite)),
        *(("probe", k, 112) for k in range(4)),
    )
    for file, line in zip(SHIPPED, found[: len(SHIPPED)], strict=True):
        contract = read_contract(file)
        assert contract.golden is not None
        *numbers, name, precision, licence = line.split("\t")
        assert (name, precision, licence) == (contract.name, contract.precision, contract.licence)
        spec = contract.input
        flags = f"{spec.layout == 'NCHW':d}{spec.dtype == 'float32':d}{spec.colour == 'BGR':d}"
        assert numbers[1] == flags
        expected = [spec.size, contract.embedding.length, contract.golden.min_cosine]
        expected += [each for pair in zip(spec.mean, spec.std, strict=True) for each in pair]
        expected += [each for row in contract.golden.embeddings for each in row]
        known = sorted((float(far), entry["value"]) for far, entry in contract.thresholds.items() if entry)
        expected += [each for pair in known for each in pair]
        np.testing.assert_allclose([float(number) for number in (numbers[0], *numbers[2:])], expected, rtol=1e-6)
    texts = [*map(read_text, files), read_text(tiny_tflite)]
    assert found[len(SHIPPED) :][: len(texts)] == [digest(text.encode()) for text in texts]
    assert found[-4:] == [digest(image.tobytes()) for image in probes]


def test_preprocessing_and_golden_vectors_are_those_of_python(ask: Ask, make_onnx: Callable[..., Path], tmp_path: Path):
    face = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    (tmp_path / "face").write_bytes(face.tobytes())
    questions, expected = [], []
    for layout in ("NHWC", "NCHW"):
        for colour in ("RGB", "BGR"):
            for dtype in ("uint8", "float32"):
                spec = InputSpec(
                    size=8, layout=layout, colour=colour, dtype=dtype, mean=(10, 20.5, 30), std=(40, 50, 7)
                )
                path = make_onnx(tmp_path / f"{layout}{colour}{dtype}.onnx", input=spec)
                questions.append(("input", path, tmp_path / "face"))
                expected.append(digest(as_input(face[None], spec).tobytes()))
    assert len(set(expected)) == 8
    assert ask(*questions) == expected

    model = load(SHIPPED[0])
    assert model.contract.golden is not None
    answers = model.embed(probe_images(112))
    (tmp_path / "same").write_bytes((7 * answers).tobytes())
    other = answers[[0, 1, 1, 3]]
    (tmp_path / "other").write_bytes(other.tobytes())
    same, swapped = map(float, ask(*(("golden", SHIPPED[0], tmp_path / name) for name in ("same", "other"))))
    assert same == pytest.approx(model.golden_cosine(), abs=1e-6)
    assert swapped == pytest.approx(float(other[2] @ np.float32(model.contract.golden.embeddings[2])), abs=1e-5)


def test_a_file_that_is_no_model_gives_one_line(
    ask: Ask, tiny_onnx: Path, tiny_tflite: Path, behind_tflite: Path, ncnn_file: Path, tmp_path: Path
):
    whole = SHIPPED[1].read_bytes()
    cases = {
        "empty": (b"", "the file is empty"),
        "letter": (b"a letter, not a model", "not a whole ONNX, TFLite or ncnn model"),
        "bare": (whole.replace(b"\x0a\x08edgeface", b"\x0a\x08somebody"), "carries no edgeface contract"),
        "newer": (whole.replace(b'"schema":1', b'"schema":2'), "newer schema: update this reader"),
        "layout": (whole.replace(b'"NHWC"', b'"NWHC"'), "input.layout is neither NHWC nor NCHW"),
        "size": (whole.replace(b'"size":112', b'"size":0.5'), "input.size is out of range"),
        "length": (whole.replace(b'"length":128', b'"length":127'), "golden.embeddings has another length"),
        "json": (whole.replace(b'"schema":1', b'"schema",1'), "the contract is not JSON"),
    }
    for name, (data, _) in cases.items():
        (tmp_path / name).write_bytes(data)
    for line, (name, (_, message)) in zip(
        ask(*(("tell", tmp_path / name) for name in cases)), cases.items(), strict=True
    ):
        assert line.startswith("error: "), name
        assert message in line, name
    for line in ask(*(("torture", file) for file in (tiny_onnx, tiny_tflite, behind_tflite, ncnn_file))):
        assert len(line.split("\t")) > 3
        assert "the contract is not JSON" in line.split("\t")
