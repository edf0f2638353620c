"""Several model files put together: the weights, what the one file says of itself, and every command with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface.data.dataset import FaceData, load_data
from edgeface.ensembling import best_weights, make_ensemble
from edgeface_export.separation import draw_pairs, mean_tar
from edgeface_runtime import InputSpec, UsageError, load, read_contract
from edgeface_runtime.contract import HardFaces, OperatorCost
from edgeface_runtime.integrity import inspect_file
from edgeface_runtime.model import unit_rows

PEOPLE, PHOTOS = 12, 8


@pytest.fixture
def data() -> FaceData:
    """Twelve people, eight noisy photos of 32 pixels each."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(PEOPLE), PHOTOS)
    coarse = rng.integers(0, 200, (PEOPLE, 8, 8, 3))[labels] + rng.integers(0, 56, (len(labels), 8, 8, 3))
    faces = coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    names = tuple(f"p{number}" for number in range(PEOPLE))
    paths = tuple(f"{number}.png" for number in range(len(labels)))
    return FaceData(faces, labels, names, paths, np.full(len(labels), "train", dtype="<U5"))


@pytest.fixture
def files(make_onnx: Any, tmp_path: Path) -> list[Path]:
    costs = {"conv": OperatorCost(count=1, macs=100, bytes=10)}
    known = HardFaces(agreement=(*(0.25,) * 8, -0.5), no_face=(*(-0.125,) * 8, 0.5), photos=10, people=5)
    same = {"operators": {"float": 3}, "cost": costs}
    return [
        make_onnx(tmp_path / "a.onnx", name="a", licence="MIT", parent_sha256="a" * 64, **same),
        make_onnx(tmp_path / "b.onnx", 1, name="b", licence="research", hard_faces=known, precision="int8", **same),
    ]


def test_the_weights_are_those_with_the_highest_tar_of_all_tenths():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(10), 6)
    members = [
        unit_rows((rng.normal(0, 1, (10, 16))[labels] + rng.normal(0, noise, (60, 16))).astype(np.float32))
        for noise in (1.0, 1.5, 4.0)
    ]
    found = best_weights(members, labels)
    first, second = draw_pairs(labels, count=20_000).T
    same = labels[first] == labels[second]

    def tar(weights: tuple[float, ...]) -> float:
        scores = [
            sum(w * float(rows[i] @ rows[j]) for w, rows in zip(weights, members, strict=True))
            for i, j in zip(first, second, strict=True)
        ]
        return mean_tar(np.array(scores), same)

    assert sum(found) == pytest.approx(1)
    others = [(0.1, 0.1, 0.8), (0.8, 0.1, 0.1), (0.4, 0.3, 0.3), (0.3, 0.6, 0.1), (0.6, 0.3, 0.1), (0.1, 0.8, 0.1)]
    assert all(tar(found) >= tar(other) - 1e-9 for other in others)
    assert found[2] == min(found)  # the noisiest
    assert best_weights([members[0], members[0]], labels) == (0.5, 0.5)


def test_one_file_says_of_itself_what_its_members_say(files: list[Path], data: FaceData, tmp_path: Path):
    made = make_ensemble(files, data, tmp_path / "door.ensemble")
    contract = made.contract
    assert (contract.name, contract.precision, contract.recipe, contract.embedding.length) == (
        "door", "mixed", "ensemble", 16,
    )  # fmt: skip
    assert contract.licence == "a: MIT; b: research"
    assert contract.operators == {"float": 6}
    assert contract.cost["conv"] == OperatorCost(count=2, macs=200, bytes=20)
    assert sum(member.weight for member in contract.members) == pytest.approx(1)
    assert contract.accuracy["thresholds"]["people"] == made.people == PEOPLE - PEOPLE // 3
    assert contract.thresholds["0.01"]["low"] <= contract.thresholds["0.01"]["value"]
    assert contract.thresholds["1e-05"] is None
    assert inspect_file(made.path).ok
    assert [row.name for row in made.rows] == ["a.onnx", "b.onnx", "door.ensemble"]
    again = make_ensemble(files, data, tmp_path / "again.ensemble").contract
    assert again.parent_sha256 == contract.parent_sha256
    turned = make_ensemble(files[::-1], data, tmp_path / "turned.ensemble").contract
    assert turned.parent_sha256 != contract.parent_sha256


def test_what_tells_hard_faces_gives_the_members_own_values(files: list[Path], data: FaceData, tmp_path: Path):
    made = make_ensemble(files, data, tmp_path / "door.ensemble")
    ours, theirs = made.contract.hard_faces, read_contract(files[1]).hard_faces
    assert ours is not None
    assert theirs is not None
    whole, alone = load(made.path).embed(data.faces[:9]), load(files[1]).embed(data.faces[:9])
    for line, of_member in ((ours.agreement, theirs.agreement), (ours.no_face, theirs.no_face)):
        found = whole @ np.array(line[:-1]) + line[-1]
        np.testing.assert_allclose(found, alone @ np.array(of_member[:-1]) + of_member[-1], atol=1e-5)


def test_people_that_a_member_was_trained_on_have_no_say(make_onnx: Any, data: FaceData, tmp_path: Path):
    split = data.split.copy()
    split[data.labels >= 7] = "test"
    data = replace(data, split=split)
    photos = {"photos_sha256": data.photos_sha256(), "train_sha256": data.photos_sha256("train")}
    files = [make_onnx(tmp_path / "a.onnx", **photos), make_onnx(tmp_path / "b.onnx", 1)]
    with pytest.raises(UsageError, match="the photos show 5 people that no member was trained on; it takes 6"):
        make_ensemble(files, data, tmp_path / "door.ensemble")
    split[data.labels == 6] = "test"
    with pytest.raises(UsageError, match="split again after tiny was trained"):
        make_ensemble(files, data, tmp_path / "door.ensemble")
    photos["train_sha256"] = data.photos_sha256("train")
    make_onnx(tmp_path / "a.onnx", **photos)
    assert make_ensemble(files, data, tmp_path / "door.ensemble").people == 4


@pytest.mark.parametrize(
    ("names", "output", "said"),
    [
        (["a.onnx"], "door.ensemble", "an ensemble has 2 to 4 model files, not 1"),
        (["a.onnx"] * 5, "door.ensemble", "an ensemble has 2 to 4 model files, not 5"),
        (["a.onnx", "./a.onnx"], "door.ensemble", "a.onnx: named twice"),
        (
            ["a.onnx", "big.onnx"],
            "door.ensemble",
            "big.onnx takes faces of 48 px, .*a.onnx of 32: .* get the same crop",
        ),
        (["a.onnx", "made.ensemble"], "door.ensemble", "made.ensemble: an ensemble itself: name its members"),
        (["a.onnx", "net.safetensors"], "door.ensemble", "net.safetensors: not an exported model file"),
        (["a.onnx", "b.onnx"], "door.onnx", "door.onnx: the name of an ensemble ends with .ensemble"),
        (["a.onnx", "b.onnx"], "absent/door.ensemble", "absent"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    names: list[str], output: str, said: str, files: list[Path], make_onnx: Any, data: FaceData, tmp_path: Path
):
    big = make_onnx(tmp_path / "big.onnx")
    contract = replace(read_contract(big), input=InputSpec(size=48, dtype="float32"))
    make_onnx(tmp_path / "big.onnx", input=contract.input)
    (tmp_path / "net.safetensors").write_bytes(b"")
    (tmp_path / "made.ensemble").write_bytes(b"")
    with pytest.raises(UsageError, match=said) as raised:
        make_ensemble([tmp_path / name for name in names], data, tmp_path / output)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "door.ensemble").exists()


MEMBERS = ["mobilefacenet-tiny.tflite", "mobilefacenet-tiny.onnx"]


def test_every_command_takes_it_as_a_model(att: Path, att_people: Path, tmp_path: Path, say: Callable[..., Any]):
    door, gallery = tmp_path / "door.ensemble", tmp_path / "people.gallery"
    make_ensemble(MEMBERS, load_data(att), door)
    photos = [att / "s1" / f"{take}.pgm" for take in (1, 2)]
    assert say("enroll", *photos, "--name", "Ada", "-g", gallery, "--model", door, "--force")[0] == 0
    code, found, _ = say("identify", att / "s1" / "3.pgm", "-g", gallery, "--model", door, "--far", "0.1")
    assert (code, found["faces"][0]["name"]) == (0, "Ada")
    assert say("verify", photos[0], photos[1], "--model", door, "--far", "0.01")[1]["same"] is True
    code, _, err = say("identify", photos[0], "-g", gallery, "--model", "mobilefacenet-tiny", "--far", "0.1")
    assert (code, err.count("\n")) == (2, 1)
    assert say("inspect", door)[1]["format"] == "ensemble"
    assert say("eval", door, "--data", att_people)[1]["identification"]["accuracy"] > 0.8
    code, _, err = say("profile", door)
    assert (code, err) == (2, f"edgeface: {door}: ensemble of several models: profile each of them\n")
    code, _, err = say("inspect", door, "--compare", door)
    assert (code, err.count("\n")) == (2, 1)
    assert say("bench", door, "--device", "rpi")[1]["rows"][0]["p50_ms"] is None


@pytest.mark.slow
def test_a_bench_has_a_row_for_it(att_people: Path, tmp_path: Path, say: Callable[..., Any]):
    door = make_ensemble(MEMBERS, load_data(att_people), tmp_path / "door.ensemble").path
    code, bench, _ = say("bench", door, "mobilefacenet-tiny.tflite", "--calls", "20")
    rows = {row["format"]: row for row in bench["rows"]}
    assert code == 0
    assert rows["ensemble"]["cpu_p50_ms"] > rows["tflite"]["cpu_p50_ms"]
    assert "onnxruntime" in rows["ensemble"]["engine_version"]


def test_no_better_than_its_best_member_is_an_answer(att_people: Path, tmp_path: Path, say: Callable[..., Any]):
    code, made, err = say("ensemble", *MEMBERS, "--data", att_people, "-o", tmp_path / "door.ensemble")
    assert [row["name"] for row in made["members"]] == [name.replace(".", ".int8.") for name in MEMBERS]
    assert code == (0 if made["better"] else 1)
    assert ("no better than its best member" in err) == (code == 1)
    assert set(made["thresholds"].values()) == {None}  # the photos are not aligned
    assert "not aligned" in load(tmp_path / "door.ensemble").contract.accuracy["thresholds"]["missing"]["0.01"]
