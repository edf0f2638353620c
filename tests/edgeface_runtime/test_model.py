from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface_runtime import Contract, ContractError, EmbeddingSpec, ImageError, InputSpec, ModelError, UsageError, load
from edgeface_runtime.contract import Golden, seal
from edgeface_runtime.model import PROBES, as_input, probe_images, unit_rows

Oracle = Callable[[np.ndarray], np.ndarray]
TINY = {"size": 32, "dtype": "float32"}


def photos(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(params=["onnx", "tflite"])
def make(request: pytest.FixtureRequest, make_onnx: Any, make_tflite: Any, tmp_path: Path) -> Callable[..., Path]:
    writer = {"onnx": make_onnx, "tflite": make_tflite}[request.param]
    return lambda **changes: writer(tmp_path / f"made.{request.param}", **changes)


@pytest.mark.parametrize("count", [0, 1, 3, 33])
def test_embeddings_are_the_formula(make: Callable[..., Path], count: int, tiny_oracle: Oracle):
    faces = photos(count)
    rows = load(make()).embed(faces)
    assert (rows.shape, rows.dtype) == ((count, 8), np.float32)
    np.testing.assert_allclose(rows, tiny_oracle(faces), atol=2e-6)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_fixed_batch_is_filled_up(make_onnx: Any, tmp_path: Path, count: int, tiny_oracle: Oracle):
    model = load(make_onnx(tmp_path / "four.onnx", batch=4))
    assert model.engine.input_shape == (4, 32, 32, 3)
    faces = photos(count)
    np.testing.assert_allclose(model.embed(faces), tiny_oracle(faces), atol=2e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_answer(make: Callable[..., Path], threads: int, tiny_oracle: Oracle):
    faces = photos(5)
    np.testing.assert_allclose(load(make(), threads=threads).embed(faces), tiny_oracle(faces), atol=2e-6)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_input_is_what_the_contract_says(layout: str, colour: str, dtype: str):
    mean, std = (10.0, 20.5, 30.0), (2.0, 4.0, 0.5)
    spec = InputSpec(size=4, layout=layout, colour=colour, dtype=dtype, mean=mean, std=std)
    faces = photos(2, 4)
    found = as_input(faces, spec)
    assert found.dtype == dtype
    assert found.flags.c_contiguous
    for n, y, x, c in np.ndindex(faces.shape):
        value = float(faces[n, y, x, c if colour == "RGB" else 2 - c])
        if dtype == "float32":
            value = (value - mean[c]) / std[c]
        place = (n, y, x, c) if layout == "NHWC" else (n, c, y, x)
        assert found[place] == np.float32(value)


def test_a_planar_bgr_file_gives_what_its_own_preprocessing_would(make_onnx: Any, tmp_path: Path, tiny_oracle: Oracle):
    spec = InputSpec(**TINY, layout="NCHW", colour="BGR")
    faces = photos(3)
    found = load(make_onnx(tmp_path / "planar.onnx", input=spec)).embed(faces)
    np.testing.assert_allclose(found, tiny_oracle(faces[..., ::-1]), atol=2e-6)


@pytest.mark.parametrize(
    "faces",
    [photos(1, 31), photos(1)[0], photos(1).astype(np.float32), photos(1).transpose(0, 3, 1, 2), photos(2)[..., :1]],
)
def test_other_faces_are_refused(make: Callable[..., Path], faces: np.ndarray):
    with pytest.raises(ImageError, match=re.escape("takes uint8 (N, 32, 32, 3)")):
        load(make()).embed(faces)


def test_a_file_that_does_not_fit_its_contract_is_refused(make: Callable[..., Path]):
    with pytest.raises(ModelError, match=r"made.*: takes .*32, 32, 3\), its contract says \(N, 64, 64, 3\)"):
        load(make(input=InputSpec(size=64, dtype="float32")))
    with pytest.raises(ModelError, match=r"made.*: gave \(1, 8\), its contract says \(1, 7\)"):
        load(make(embedding=EmbeddingSpec(length=7))).embed(photos(1))
    with pytest.raises(ModelError, match=r"made.*: .* cannot run it: ") as caught:
        load(make(input=InputSpec(size=32, dtype="uint8"))).embed(photos(1))
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_refused_but_a_given_contract_is_believed(make: Callable[..., Path], tiny_oracle: Oracle):
    path = make()
    contract = load(path).contract
    path.write_bytes(path.read_bytes().replace(b'"licence":"unknown"', b'"licence":"Unknown"'))
    with pytest.raises(ModelError, match=r"made.*: changed since it was exported"):
        load(path)
    faces = photos(2)
    np.testing.assert_allclose(load(path, contract=contract).embed(faces), tiny_oracle(faces), atol=2e-6)


def test_a_foreign_file_needs_a_contract(make: Callable[..., Path], tiny_oracle: Oracle):
    path = make()
    path.write_bytes(path.read_bytes().replace(b"edgeface", b"somebody"))
    with pytest.raises(ContractError, match="carries no edgeface contract"):
        load(path)
    contract = Contract(name="x", backbone="?", input=InputSpec(**TINY), embedding=EmbeddingSpec(length=8))
    np.testing.assert_allclose(load(path, contract=contract).embed(photos(1)), tiny_oracle(photos(1)), atol=2e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(make: Callable[..., Path], value: float):
    path = make()
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.3, (8, 4, 4, 3)).astype(np.float32)[0, 0, 0, 0].tobytes()
    assert data.count(weight) == 1
    path.write_bytes(data.replace(weight, np.float32(value).tobytes()))
    seal(path)
    faces = np.full((1, 32, 32, 3), 200, np.uint8)
    with pytest.raises(ModelError, match="gave embeddings that are not finite numbers"):
        load(path).embed(faces)


def test_many_threads_embed_with_one_model(make: Callable[..., Path]):
    model = load(make())
    batches = [photos(3, seed=seed) for seed in range(24)]
    alone = [model.embed(faces) for faces in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(model.embed, batches))
    np.testing.assert_array_equal(together, alone)


def test_golden_cosine(make: Callable[..., Path]):
    assert load(make()).golden_cosine() is None
    answers = load(make()).embed(probe_images(32))

    def golden(rows: np.ndarray, probes: str = PROBES) -> float | None:
        vectors = Golden(probes=probes, embeddings=tuple(map(tuple, rows.tolist())), min_cosine=0.9)
        return load(make(golden=vectors)).golden_cosine()

    assert golden(answers) == pytest.approx(1, abs=1e-6)
    mixed = answers.copy()
    mixed[2] = -mixed[2]
    assert golden(mixed) == pytest.approx(-1, abs=1e-6)
    with pytest.raises(ModelError, match="holds 3 golden vectors, its probes are 4"):
        golden(answers[:3])
    with pytest.raises(ModelError, match="golden probes 'edgeface-waves-9' are not known here: update edgeface"):
        golden(answers, "edgeface-waves-9")


def test_unit_rows_leave_zeros_alone():
    rows = unit_rows(np.array([[3, 4], [0, 0], [-1e-12, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [-1, 0]], atol=1e-7)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(make: Callable[..., Path], threads: int):
    with pytest.raises(UsageError, match=f"threads is {threads}; it must be at least 1"):
        load(make(), threads=threads)
