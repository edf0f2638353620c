"""What teachers say of a face, and that a student comes to say it too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from edgeface.data.dataset import FaceData, load_data
from edgeface.embedder import Embedder
from edgeface.evaluation.opening import open_teachers
from edgeface.training.checkpoints import new_folder
from edgeface.training.config import load_config
from edgeface.training.distill.teachers import Embedded, targets_of_run, teacher_targets
from edgeface.training.loop import train
from edgeface_runtime import Contract, EmbeddingSpec, UsageError
from edgeface_runtime.model import unit_rows


def teacher(name: str, length: int, calls: list[int] | None = None) -> Embedder:
    """A fixed random linear map of the 8 × 8 thumbnail: a teacher whose answers are known."""
    seed = sum(name.encode())
    matrix = np.random.default_rng(seed).standard_normal((8 * 8 * 3, length)).astype(np.float32)

    def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        if calls is not None:
            calls.append(len(faces))
        small = faces.reshape(len(faces), 8, faces.shape[1] // 8, 8, faces.shape[2] // 8, 3).mean(axis=(2, 4))
        return unit_rows((small.reshape(len(faces), -1).astype(np.float32) - 127.5) @ matrix)

    return Embedder(Contract(name=name, backbone="linear", embedding=EmbeddingSpec(length=length)), embed)


@pytest.fixture(scope="module")
def faces() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (30, 112, 112, 3), dtype=np.uint8)


def every(*arrays: NDArray[np.uint8]) -> Embedded:
    return [(array, np.arange(len(array))) for array in arrays]


def test_one_teacher_is_taken_at_its_word_with_the_mirror_image(faces: NDArray[np.uint8], tmp_path: Path):
    one = teacher("one", 16)
    targets = teacher_targets(every(faces), [one], 16, tmp_path)
    slow = np.stack([(one.embed(face[None]) + one.embed(face[None, :, ::-1]))[0] / 2 for face in faces])
    np.testing.assert_allclose(targets, unit_rows(slow), atol=2e-3)


def test_an_ensemble_keeps_the_mean_cosine(faces: NDArray[np.uint8], tmp_path: Path):
    both = [teacher("one", 16), teacher("two", 24)]
    whole = teacher_targets(every(faces), both, 40, tmp_path)
    lengths = [each.contract.embedding.length for each in both]
    words = [
        teacher_targets(every(faces), [each], length, tmp_path) for each, length in zip(both, lengths, strict=True)
    ]
    mean = sum(word @ word.T for word in words) / 2
    np.testing.assert_allclose(whole @ whole.T, mean, atol=2e-3)


def test_a_projection_loses_no_more_than_the_best_one(faces: NDArray[np.uint8], tmp_path: Path):
    both = [teacher("one", 16), teacher("two", 24)]
    whole = teacher_targets(every(faces), both, 40, tmp_path)
    short = teacher_targets(every(faces), both, 20, tmp_path)
    u, s, _ = np.linalg.svd(whole.astype(np.float64), full_matrices=False)
    best = unit_rows((u[:, :20] * s[:20]).astype(np.float32))
    np.testing.assert_allclose(short @ short.T, best @ best.T, atol=2e-2)


def test_fewer_faces_than_the_embedding_is_long_keep_all_cosines(faces: NDArray[np.uint8], tmp_path: Path):
    found = teacher_targets(every(faces[:9]), [teacher("one", 16)], 12, tmp_path / "short")
    whole = teacher_targets(every(faces[:9]), [teacher("one", 16)], 16, tmp_path / "whole")
    assert found.shape == (9, 12)
    np.testing.assert_allclose(found @ found.T, whole @ whole.T, atol=1e-5)


def test_answers_are_asked_once_and_kept(faces: NDArray[np.uint8], tmp_path: Path):
    calls: list[int] = []
    one = teacher("one", 16, calls)
    first = teacher_targets(every(faces[:20], faces[20:]), [one], 16, tmp_path)
    assert sum(calls) == 60
    again = teacher_targets(every(faces[:20], faces[20:]), [one], 16, tmp_path)
    assert sum(calls) == 60
    np.testing.assert_array_equal(first, again)
    teacher_targets(every(faces[::-1]), [one], 16, tmp_path)
    assert sum(calls) == 120


def test_teachers_shorter_than_the_student_are_refused(faces: NDArray[np.uint8], tmp_path: Path):
    with pytest.raises(UsageError, match="the teachers give 16 floats, the student 32: --embedding-dim 16"):
        teacher_targets(every(faces), [teacher("one", 16)], 32, tmp_path)


def test_no_test_photo_is_shown_to_a_teacher(faces: NDArray[np.uint8], tmp_path: Path):
    one = teacher("one", 16)
    split = np.array(["train", "test", "val"] * 8)
    data = FaceData(faces[:24], np.zeros(24, np.int64), ("a",), tuple(map(str, range(24))), split)
    config = load_config(None, ["embedding_dim=16"])
    targets = targets_of_run(data, faces[24:], [one], None, config, tmp_path / "one")
    assert targets.shape == (30, 16)
    unseen = np.flatnonzero(split == "test")
    assert not targets[unseen].any()
    rest = np.delete(np.arange(30), unseen)
    known = teacher_targets(every(faces), [one], 16, tmp_path)
    np.testing.assert_array_equal(targets[rest], known[rest])
    # Other test photos, other pixels: nothing that is learnt from changes.
    changed = data.faces.copy()
    changed[unseen] = 0
    again = targets_of_run(replace(data, faces=changed), faces[24:], [one], None, config, tmp_path / "two")
    np.testing.assert_array_equal(again, targets)


def test_a_student_moves_towards_its_teacher_on_photos_without_names(att_people: Path, tmp_path: Path):
    data = load_data(att_people)
    named = np.isin(data.labels, (0, 1))
    paths = tuple(np.array(data.paths)[named].tolist())
    few = FaceData(data.faces[named], data.labels[named], data.identities[:2], paths, data.split[named])
    config = load_config(
        backbone="mobilefacenet-tiny",
        epochs=3,
        batch_size=10,
        embedding_dim=16,
        classification_weight=0.0,
        warmup_ratio=0.1,
    )
    ask = [teacher("one", 16)]
    curves = train(few, tmp_path / "run", config, teachers=ask, unlabeled=data.faces[~named])
    assert curves[-1].train_accuracy is None
    cosines = [row.train_cosine or 0.0 for row in curves]
    assert cosines[-1] > cosines[0] + 0.2, cosines


def test_a_run_that_ends_while_its_teachers_answer_can_be_resumed(att_people: Path, tmp_path: Path):
    def stop(_: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise KeyboardInterrupt

    config = load_config(None, ["embedding_dim=16", "batch_size=10"], backbone="mobilefacenet-tiny")
    teachers = [teacher("one", 16), Embedder(teacher("two", 16).contract, stop)]
    with pytest.raises(KeyboardInterrupt):
        train(load_data(att_people), tmp_path / "run", config, teachers=teachers)
    assert new_folder(tmp_path / "run", marker="run.json", resume=True)


def test_photos_without_names_need_a_teacher(att_people: Path, tmp_path: Path):
    data = load_data(att_people)
    with pytest.raises(UsageError, match="photos without labels need a teacher"):
        train(data, tmp_path / "run", load_config(), unlabeled=data.faces)
    assert not (tmp_path / "run").exists()


def test_a_foreign_teacher_needs_its_contract(make_onnx, tmp_path: Path):
    import onnx

    plain = tmp_path / "plain.onnx"
    model = onnx.load(make_onnx(tmp_path / "own.onnx"))
    contract = next(item.value for item in model.metadata_props if item.key == "edgeface")
    del model.metadata_props[:]
    onnx.save(model, plain)
    with pytest.raises(UsageError, match="carries no contract; give one with --teacher-contract"):
        open_teachers([plain], [])
    stated = tmp_path / "plain.json"
    stated.write_text(contract)
    (opened,) = open_teachers([plain], [stated])
    assert opened.contract == Contract.from_json(contract)
    with pytest.raises(UsageError, match="no teacher is left that lacks a contract"):
        open_teachers([tmp_path / "own.onnx"], [stated])


def test_targets_turn_towards_a_student_that_knows_them_in_another_frame(faces: NDArray[np.uint8], tmp_path: Path):
    torch = pytest.importorskip("torch")
    from edgeface.training.distill.teachers import rotate_to_student

    one = teacher("one", 16)
    targets = teacher_targets(every(faces), [one], 16, tmp_path)
    frame = np.linalg.qr(np.random.default_rng(1).standard_normal((16, 16)))[0].astype(np.float32)
    seen: dict[bytes, NDArray[np.float32]] = {}

    class Student(torch.nn.Module):
        """Says of each face what the teacher says, seen from another frame."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.stack([seen[face.numpy().tobytes()] for face in x]))

    config = load_config(None, ["embedding_dim=16"])
    for row, face in zip(targets, faces, strict=True):
        x = (torch.from_numpy(face).permute(2, 0, 1).float() - 127.5) / 127.5
        seen[x.numpy().tobytes()] = row @ frame
    turned = rotate_to_student(targets, Student(), (targets, faces), config, tmp_path / "turn.npy")
    np.testing.assert_allclose(turned, targets @ frame, atol=1e-5)
    np.testing.assert_allclose(turned @ turned.T, targets @ targets.T, atol=1e-5)
    # A resumed run's net says something else by now; the rotation stays.
    seen = {key: -value for key, value in seen.items()}
    again = rotate_to_student(targets, Student(), (targets, faces), config, tmp_path / "turn.npy")
    np.testing.assert_array_equal(again, turned)
