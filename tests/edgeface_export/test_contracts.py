"""Contracts of third-party models by name and by measurement, on a made-up net and on real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from edgeface.data.dataset import FaceData
from edgeface.deploy import ExportPhotos, export_model
from edgeface.progress import Reporter
from edgeface_export.contracts import (
    HALF,
    IMAGENET,
    NAMED,
    NORMALIZATIONS,
    ONE,
    UNIT,
    ZERO,
    doubt,
    drafted,
    find_contract,
    named_contract,
)
from edgeface_export.options import ExportOptions
from edgeface_runtime import Contract, ModelError, UsageError
from edgeface_runtime.contract import InputSpec


def save_net(path: Path, sides: tuple[int | str, ...] = (3, 16, 16), length: int = 64) -> Path:
    """A net that sees only what is dark in the first channel it is given: Relu(−x), pooled to 8 × 8 numbers."""
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = np.zeros((1, 3, 2, 2), np.float32)
    weights[0, 0] = -0.25
    nodes = [make("Conv", ["x", "w"], ["c"], strides=[2, 2]), make("Relu", ["c"], ["r"]), make("Flatten", ["r"], ["y"])]
    if sides[0] != 3:
        nodes.insert(0, make("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]))
        nodes[1].input[0] = "t"
    held = [onnx.numpy_helper.from_array(weights, "w")]
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, ["n", *sides])], [info("y", 1, ["n", length])], held)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def people() -> tuple[np.ndarray, np.ndarray]:
    """Twenty people of six photos; who they are is in the dark parts of red, and blue is noise."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(20), 6)
    faces = rng.integers(0, 256, (120, 16, 16, 3))
    patterns = rng.integers(20, 236, (20, 8, 8)).repeat(2, 1).repeat(2, 2)
    faces[..., 0] = patterns[labels] + rng.normal(0, 12, (120, 16, 16))
    return np.clip(faces, 0, 255).astype(np.uint8), labels


@pytest.mark.parametrize("sides", [(3, 16, 16), (16, 16, 3)], ids=["NCHW", "NHWC"])
def test_the_contract_is_found_by_what_tells_people_apart(
    tmp_path: Path, people: tuple[np.ndarray, np.ndarray], sides: tuple[int, ...]
):
    path = save_net(tmp_path / "dark.onnx", sides)
    found = find_contract(path, *people)
    spec = found.best.input
    assert (spec.colour, spec.size, spec.layout) == ("RGB", 16, "NCHW" if sides[0] == 3 else "NHWC")
    assert spec.mean[0] > 100
    assert (found.best.name, found.best.embedding.length) == ("dark", 64)
    assert "found: RGB, (pixel − " in found.said
    assert "as good: RGB, (pixel − 127.5) / 128" in found.said
    assert "all others are more than 25 points behind" in found.said
    swapped = find_contract(path, np.ascontiguousarray(people[0][..., ::-1]), people[1])
    assert swapped.best.input.colour == "BGR"
    right = named_contract(save_net(tmp_path / "other.onnx", (3, 112, 112), 56 * 56), "insightface")
    assert (right.input.colour, right.input.mean) == ("RGB", HALF)
    assert doubt(path, found.best, *people) is None


@pytest.mark.parametrize(
    ("colour", "statistics"),
    [("BGR", (HALF, HALF)), ("RGB", (ZERO, ONE)), ("RGB", (ZERO, (255.0,) * 3)), ("BGR", IMAGENET)],
)
def test_a_wrong_contract_is_seen(
    tmp_path: Path, people: tuple[np.ndarray, np.ndarray], colour: str, statistics: tuple[Any, Any]
):
    path = save_net(tmp_path / "dark.onnx")
    drawn = drafted(path)
    mean, std = statistics
    wrong = replace(drawn, input=replace(drawn.input, colour=colour, mean=mean, std=std))
    found = doubt(path, wrong, *people)
    assert found is not None
    assert found.is_wrong
    assert f"dark.onnx: its contract says {colour}, (pixel − " in found.said
    assert "yet fed RGB, (pixel − " in found.said


def test_grey_photos_cannot_tell_the_order_of_colours(tmp_path: Path, people: tuple[np.ndarray, np.ndarray]):
    faces = people[0][..., :1].repeat(3, axis=3)
    found = find_contract(save_net(tmp_path / "dark.onnx"), faces, people[1])
    assert "the photos are grey, so the order of colours cannot be told" in found.said
    assert found.best.input.colour == "RGB"


def test_a_net_that_tells_nobody_apart_has_no_contract(tmp_path: Path, people: tuple[np.ndarray, np.ndarray]):
    noise = np.random.default_rng(1).integers(0, 256, people[0].shape, np.uint8)
    with pytest.raises(ModelError, match="no way to feed it tells people apart"):
        find_contract(save_net(tmp_path / "dark.onnx"), noise, people[1])
    with pytest.raises(UsageError, match="needs photos of two people or more, two of each at least"):
        find_contract(save_net(tmp_path / "dark.onnx"), noise[:4], np.arange(4))


def test_names_are_what_their_publishers_say(tmp_path: Path):
    path = save_net(tmp_path / "net.onnx", (3, 112, 112), 56 * 56)
    for name, known in NAMED.items():
        assert (known.mean, known.std) in NORMALIZATIONS
        assert "/" in known.source or name == "insightface-mxnet"
        if known.size == 112:
            contract = named_contract(path, name)
            assert contract.input == InputSpec(
                layout="NCHW", dtype="float32", colour=known.colour, mean=known.mean, std=known.std
            )
            assert contract.licence.startswith(known.licence)
    with pytest.raises(ModelError, match="takes faces of 112 pixels, facenet160 of 160"):
        named_contract(path, "facenet160")
    free = save_net(tmp_path / "free.onnx", (3, "h", "w"), 80 * 80)
    assert named_contract(free, "facenet160").input.size == 160
    with pytest.raises(UsageError, match="nobody: no contract file and no known name; there are auto, insightface, "):
        named_contract(path, "nobody")


def test_few_faces_check_no_contract(tmp_path: Path, people: tuple[np.ndarray, np.ndarray]):
    path = save_net(tmp_path / "dark.onnx")
    best = find_contract(path, *people).best
    few = doubt(path, best, people[0][:36], people[1][:36])
    assert few is not None
    assert not few.is_wrong
    assert "36 faces with 90 genuine pairs are too few to check its contract: 120 genuine pairs are needed" in few.said
    alone = doubt(path, best, people[0][::6], people[1][::6])
    assert alone is not None
    assert "20 faces with 0 genuine pairs are too few" in alone.said


@pytest.fixture
def tied(people: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The same people, who they are told by red and by blue, each in a pattern of its own."""
    faces, labels = people[0].copy(), people[1]
    faces[..., 2] = faces[np.argsort(-labels, kind="stable"), ..., 0][:, ::-1]
    return faces, labels


def test_a_tie_of_few_faces_is_a_guess(tmp_path: Path, tied: tuple[np.ndarray, np.ndarray]):
    path = save_net(tmp_path / "dark.onnx")
    found = find_contract(path, tied[0][:36], tied[1][:36])
    assert found.is_guess
    assert "36 faces with 90 genuine pairs are too few to tell these apart: 120 genuine pairs" in found.doubt
    enough = find_contract(path, *tied)
    assert not enough.is_guess
    assert enough.doubt == enough.said


def folder_of(faces: np.ndarray, labels: np.ndarray) -> FaceData:
    """Four photos of each person train, two test."""
    split = np.where(np.arange(len(labels)) % 6 < 4, "train", "test")
    names = tuple(f"p{label}" for label in np.unique(labels))
    return FaceData(faces, labels, names, tuple(f"{row}.png" for row in range(len(labels))), split)


THEIRS = """
name = "theirs"
backbone = "theirs"
[input]
size = 16
layout = "NCHW"
dtype = "float32"
mean = [127.5, 127.5, 127.5]
std = [127.5, 127.5, 127.5]
[embedding]
length = 64
"""


def test_an_export_warns_of_few_photos_or_refuses_a_guess(tmp_path: Path, tied: tuple[np.ndarray, np.ndarray]):
    path, photos = save_net(tmp_path / "dark.onnx"), ExportPhotos(data=folder_of(tied[0][:36], tied[1][:36]))
    (tmp_path / "theirs.toml").write_text(THEIRS)
    said, options = list[str](), ExportOptions(precisions=("fp32",))
    with pytest.raises(UsageError, match=r"too few to tell these apart.*; nothing was written"):
        export_model(path, photos, tmp_path / "out", options, contract=Path("auto"))
    assert not (tmp_path / "out").exists()

    class Listening(Reporter):
        def say(self, line: str, *, heading: bool = False) -> None:
            said.append(line)

    made = export_model(
        path, photos, tmp_path / "out", options, contract=tmp_path / "theirs.toml", reporter=Listening()
    )
    warnings, card = made.as_json()["warnings"], made.card.read_text()
    assert isinstance(warnings, list)
    assert "24 faces with 36 genuine pairs are too few to check its contract: 120 genuine pairs" in warnings[0]
    assert warnings[-1].startswith("6 genuine pairs cannot show a loss of 0.15 points; give more test photos")
    for line in warnings:
        assert line in said
        assert line in card
    wrong = THEIRS.replace("127.5", "0").replace("std = [0, 0, 0]", "std = [1, 1, 1]")
    (tmp_path / "wrong.toml").write_text(wrong)
    with pytest.raises(ModelError, match="--contract auto measures it; nothing was written"):
        export_model(path, photos, tmp_path / "wrong", options, contract=tmp_path / "wrong.toml")
    assert not (tmp_path / "wrong").exists()


PEERS = {
    "foamliu-mobilefacenet-128d.onnx": ("foamliu", {IMAGENET}),
    # 127.5 and 128 differ by 0.4 %, which no photo can tell.
    "sirius-mobilefacenet-192d.tflite": ("sirius", {(HALF, UNIT), (HALF, HALF)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", PEERS)
def test_the_contracts_of_real_nets_are_found(file: str, shared: Path):
    from edgeface.data.dataset import load_data

    name, statistics = PEERS[file]
    path, data = shared / "peers" / file, load_data(shared / "data" / "celeba248")
    rows = data.rows("train", "val")
    faces, labels = data.faces[rows], data.labels[rows]
    spec = find_contract(path, faces, labels).best.input
    assert (spec.colour, spec.dtype) == ("RGB", "float32")
    assert (spec.mean, spec.std) in statistics
    right: Contract = named_contract(path, name)
    assert (right.input.mean, right.input.std) in statistics
    assert doubt(path, right, faces, labels) is None
    for colour, (mean, std) in (
        ("BGR", (right.input.mean, right.input.std)),
        ("RGB", (ZERO, ONE)),
        ("BGR", (ZERO, ONE)),
    ):
        wrong = replace(right, input=replace(right.input, colour=colour, mean=mean, std=std))
        found = doubt(path, wrong, faces, labels)
        assert found is not None
        assert found.is_wrong is (mean == ZERO)
