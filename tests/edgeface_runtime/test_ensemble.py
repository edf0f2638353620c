"""An archive of models with a contract is one model: its scores are the weighted means of its members'."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface_runtime import (
    Contract,
    ContractError,
    EmbeddingSpec,
    FaceRecognizer,
    Gallery,
    InputSpec,
    ModelError,
    load,
)
from edgeface_runtime.contract import Member, read_contract, seal
from edgeface_runtime.engines import open_engine
from edgeface_runtime.integrity import inspect_file
from edgeface_runtime.metadata import file_format, graph_formats, write_tar
from edgeface_runtime.trial import try_model

FIRST, SECOND = "member-0.onnx", "member-1.onnx"
Make = Callable[..., Path]


def contract_of(held: dict[str, bytes], weights: tuple[float, ...] = (0.3, 0.7)) -> Contract:
    members = tuple(
        Member(file=name, name="tiny", weight=weight, sha256=hashlib.sha256(content).hexdigest())
        for (name, content), weight in zip(held.items(), weights, strict=True)
    )
    return Contract(
        name="door", backbone="tiny + tiny", recipe="ensemble", input=InputSpec(size=32),
        embedding=EmbeddingSpec(length=16, normalised=True), members=members,
    )  # fmt: skip


def write(path: Path, held: dict[str, bytes], contract: Contract) -> Path:
    write_tar(path, held | {"edgeface.json": contract.to_json().encode()})
    seal(path)
    return path


@pytest.fixture
def held(make_onnx: Any, tmp_path: Path) -> dict[str, bytes]:
    """Two nets of other weights, the second one fed BGR, planar, with another normalization."""
    other = InputSpec(size=32, layout="NCHW", dtype="float32", colour="BGR", mean=(100.0, 110.0, 120.0))
    return {
        FIRST: make_onnx(tmp_path / FIRST).read_bytes(),
        SECOND: make_onnx(tmp_path / SECOND, seed=1, input=other).read_bytes(),
    }


@pytest.fixture
def door(held: dict[str, bytes], tmp_path: Path) -> Path:
    return write(tmp_path / "door.ensemble", held, contract_of(held))


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), np.uint8)


def test_a_score_is_the_weighted_mean_of_the_members_cosines(door: Path, tmp_path: Path, faces: np.ndarray):
    model = load(door)
    rows = model.embed(faces)
    alone = [load(tmp_path / name).embed(faces).astype(np.float64) for name in (FIRST, SECOND)]
    expected = 0.3 * alone[0] @ alone[0].T + 0.7 * alone[1] @ alone[1].T
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert (rows.shape, model.engine.name) == ((5, 16), "ensemble")
    np.testing.assert_array_equal(model.embed(faces[..., ::-1], color="bgr"), rows)


def test_two_engines_work_side_by_side(make_onnx: Any, make_tflite: Any, tmp_path: Path, faces: np.ndarray):
    paths = [make_onnx(tmp_path / FIRST), make_tflite(tmp_path / "member-1.tflite")]
    held = {path.name: path.read_bytes() for path in paths}
    path = write(tmp_path / "both.ensemble", held, contract_of(held))
    model = load(path, threads=2)
    assert "onnxruntime " in model.engine.version
    assert "litert " in model.engine.version
    assert graph_formats(path) == ["onnx", "tflite"]
    alone = load(paths[0]).embed(faces)  # both are the same net
    np.testing.assert_allclose(model.embed(faces) @ model.embed(faces).T, alone @ alone.T, atol=1e-5)


def test_a_gallery_is_bound_to_the_whole(door: Path, tmp_path: Path, held: dict[str, bytes]):
    other = write(tmp_path / "other.ensemble", held, replace(contract_of(held, (0.5, 0.5)), name="other"))
    with Gallery.open(tmp_path / "people.gallery", FaceRecognizer(load(door))):
        pass
    with (
        pytest.raises(Exception, match="made with door") as raised,
        Gallery.open(tmp_path / "people.gallery", FaceRecognizer(load(other))),
    ):
        pass
    assert "\n" not in str(raised.value)


def test_its_bytes_say_what_it_is(door: Path, tmp_path: Path, held: dict[str, bytes]):
    named_wrongly = tmp_path / "door.onnx"
    named_wrongly.write_bytes(door.read_bytes())
    assert file_format(door.read_bytes()) == "ensemble"
    assert read_contract(named_wrongly).members[1].weight == 0.7
    assert load(named_wrongly).contract.name == "door"
    assert (inspect_file(door).format, inspect_file(door).intact) == ("ensemble", True)
    rows = dict(inspect_file(door).rows())
    digests = [hashlib.sha256(content).hexdigest() for content in held.values()]
    assert rows[FIRST] == f"tiny, weight 0.3, sha256 {digests[0]}"
    assert rows[SECOND] == f"tiny, weight 0.7, sha256 {digests[1]}"
    assert not [value for value in rows.values() if "{" in value]
    try_model(door)


def test_a_changed_byte_is_found(door: Path):
    data = bytearray(door.read_bytes())
    data[700] ^= 1
    door.write_bytes(data)
    assert not inspect_file(door).intact
    with pytest.raises(ModelError, match="changed since it was exported"):
        load(door)


@pytest.mark.parametrize("end", [100, 700])
@pytest.mark.parametrize("name", ["door.ensemble", "door.onnx"])
def test_a_damaged_one_is_called_an_ensemble(end: int, name: str, door: Path, tmp_path: Path):
    """By its name where not even the first block is whole, which says what it is."""
    cut = tmp_path / "cut" / name
    cut.parent.mkdir()
    cut.write_bytes(door.read_bytes()[:end])
    what = "ONNX or TFLite model" if (end, name) == (100, "door.onnx") else "ensemble of models"
    assert refused(cut) == f"not a whole {what} (truncated or another kind of file)"


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"{path}: ")


def test_a_member_that_is_absent_or_another(door: Path, held: dict[str, bytes]):
    whole = contract_of(held)
    write(door, {FIRST: held[FIRST]}, whole)
    assert refused(door) == f"its contract lists {SECOND}, which it does not hold"
    write(door, {FIRST: held[FIRST], SECOND: held[FIRST]}, whole)
    assert refused(door) == f"{SECOND} in it is not the model that its contract lists"


def test_an_ensemble_in_an_ensemble(door: Path, held: dict[str, bytes]):
    nested = {FIRST: held[FIRST], SECOND: door.read_bytes()}
    write(door, nested, contract_of(nested))
    assert refused(door) == f"{SECOND} in it is not the model that its contract lists"
    assert graph_formats(door) == ["onnx"]
    try_model(door)


@pytest.mark.parametrize("name", ["", "..", "/member-0.onnx", "a/../member-0.onnx"])
def test_a_members_name_leads_nowhere(name: str, door: Path, held: dict[str, bytes]):
    whole = contract_of(held)
    write(door, held, replace(whole, members=(replace(whole.members[0], file=name), whole.members[1])))
    assert refused(door) == f"its contract lists {name}, which it does not hold"


def test_a_member_of_another_crop(door: Path, held: dict[str, bytes]):
    write(door, held, replace(contract_of(held), input=InputSpec(size=112)))
    assert refused(door) == f"{FIRST} takes faces of 32 px, not 112"


def test_a_damaged_member_is_named(door: Path, held: dict[str, bytes]):
    cut = held | {SECOND: held[SECOND][:200]}
    write(door, cut, contract_of(cut))
    assert refused(door).startswith(f"{SECOND}: not a whole ONNX or TFLite model")


def test_a_contract_with_members_in_a_file_of_one_model(make_onnx: Any, tmp_path: Path, held: dict[str, bytes]):
    path = make_onnx(tmp_path / "one.onnx", members=contract_of(held).members)
    assert refused(path) == f"its contract lists {FIRST}, which it does not hold"


def test_no_engine_opens_an_ensemble_as_one(door: Path):
    with pytest.raises(ModelError, match="an ensemble of models, which no engine opens as one"):
        open_engine(door)


def test_a_cut_archive_is_no_ensemble(door: Path):
    door.write_bytes(door.read_bytes()[:900])
    assert graph_formats(door) == []
    with pytest.raises(ModelError):
        load(door)
    try_model(door)


@pytest.mark.parametrize("weights", [(0.0, 1.0), (-0.5, 1.5), (0.5, 0.6), (0.3, 0.3)])
def test_weights_that_are_no_shares(weights: tuple[float, float], held: dict[str, bytes]):
    with pytest.raises(ContractError, match="not above 0, or not 1 together"):
        contract_of(held, weights)
