"""Grouping faces: properties of the graph clustering, and known people against a peer."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeface.grouping.whispers import FALSE_LINKS, FAR, NEIGHBORS, group_faces, link, link_threshold
from edgeface_runtime import FaceRecognizer, UsageError
from edgeface_runtime.contract import Contract, EmbeddingSpec, InputSpec

THRESHOLDS = {
    "0.01": {"value": 0.3, "high": 0.31},
    "0.0001": {"value": 0.5, "high": 0.51},
    "1e-05": {"value": 0.6, "high": 0.61},
}
CONTRACT = Contract(
    name="net",
    backbone="net",
    precision="fp32",
    input=InputSpec(size=112, layout="NHWC", dtype="float32"),
    embedding=EmbeddingSpec(length=128),
    thresholds=THRESHOLDS,
)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def people(count: int, each: int, seed: int = 0, spread: float = 0.6) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Random directions, and photos around them; and whose each is."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(count), each)
    centers = rng.normal(size=(count, 128)) / np.sqrt(128)
    return unit(centers[names] + spread * rng.normal(size=(len(names), 128)) / np.sqrt(128)), names


def same(one: NDArray[np.intp], other: NDArray[np.intp]) -> bool:
    """Whether two labelings part the faces alike."""
    return (
        len(set(zip(one.tolist(), other.tolist(), strict=True))) == len(set(one.tolist())) == len(set(other.tolist()))
    )


def test_people_who_are_apart_are_found_and_numbered_by_size():
    rows, names = people(20, 5)
    rows, names = np.concatenate([rows, people(1, 9, seed=7)[0]]), np.concatenate([names, np.full(9, 20)])
    groups = group_faces(rows, np.arange(len(rows)), 0.5)
    assert same(groups, names)
    assert set(groups[names == 20].tolist()) == {0}
    sizes = np.bincount(groups)
    assert (np.diff(sizes) <= 0).all()


def test_the_order_of_the_faces_changes_nothing():
    # So spread that people are joined and split: an easy collection would not tell.
    rows, _ = people(60, 6, spread=1.05)
    photos = np.arange(len(rows)) // 2
    before = group_faces(rows, photos, 0.4, seed=3)
    assert 1 < len(set(before.tolist())) < 300
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        assert same(group_faces(rows[order], photos[order], 0.4, seed=3), before[order])
    assert (group_faces(rows, photos, 0.4, seed=3) == before).all()


def test_two_faces_of_a_photo_are_two_people():
    rng = np.random.default_rng(0)
    for seed in range(20):
        rows, _ = people(8, 10, seed=seed, spread=1.0)
        photos = rng.integers(0, 25, len(rows))
        groups = group_faces(rows, photos, 0.3, seed=seed)
        assert max(Counter(zip(photos.tolist(), groups.tolist(), strict=True)).values()) == 1


def test_of_two_faces_of_a_photo_the_one_that_is_more_alike_belongs_to_the_person():
    rows, _ = people(1, 8, spread=0.5)
    stranger = unit(rows[:1] + 1.1 * people(1, 1, seed=5)[0])
    assert 0.4 < float((stranger @ rows.T).mean()) < float((rows @ rows.T).mean())
    # The last of the eight stands in one photo with the stranger, who alone would have joined them.
    everybody = np.concatenate([rows, stranger])
    assert len(set(group_faces(everybody, np.arange(9), 0.4).tolist())) == 1
    for seed in range(10):
        groups = group_faces(everybody, np.array([0, 1, 2, 3, 4, 5, 6, 7, 7]), 0.4, seed=seed)
        assert groups.tolist() == [0] * 8 + [1]


def test_links_are_all_pairs_that_reach_the_threshold():
    rows, _ = people(10, 6, spread=1.0)
    photos = np.arange(len(rows)) // 3
    links = link(rows, photos, 0.35)
    scores = rows @ rows.T
    wanted = {
        (i, j) for i, j in itertools.permutations(range(len(rows)), 2) if scores[i, j] >= 0.35 and i // 3 != j // 3
    }
    heads = np.repeat(np.arange(len(rows)), np.diff(links.starts))
    assert set(zip(heads.tolist(), links.faces.tolist(), strict=True)) == wanted
    assert np.allclose(links.scores, scores[heads, links.faces], atol=1e-6)


def test_somebody_in_very_many_photos_is_one_group_and_the_links_stay_few():
    rows, names = people(2, 1500, spread=0.9)
    links = link(rows, np.arange(len(rows)), 0.3)
    assert len(links.faces) <= 2 * NEIGHBORS * len(rows)
    assert same(group_faces(rows, np.arange(len(rows)), 0.3), names)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_faces(count: int):
    rows = people(1, 2)[0][:count]
    assert group_faces(rows, np.arange(count), 0.2).tolist() == [0] * count


def test_copies_of_a_photo_are_one_group():
    rows = np.repeat(people(3, 1)[0], 4, axis=0)
    assert same(group_faces(rows, np.arange(12), 0.9), np.repeat(np.arange(3), 4))


def test_the_threshold_rises_with_the_collection_and_never_falls():
    values = [link_threshold(CONTRACT, faces) for faces in (0, 1, 100, 5000, 5001, 12_500, 50_000, 10**6)]
    assert values[0].value == values[3].value == 0.5
    assert [limit.far for limit in values[:4]] == [FAR] * 4
    assert values[5].far == pytest.approx(FALSE_LINKS / 12_500)
    assert values[6].value == values[7].value == 0.6  # no rate below the smallest measured one
    assert (np.diff([limit.value for limit in values]) >= 0).all()
    assert values[4].value - values[3].value < 0.001
    assert link_threshold(CONTRACT, 10**6, 0.01).value == 0.3


@pytest.mark.parametrize("far", [0, 1, -0.1, 1.5])
def test_a_rate_out_of_range_is_refused(far: float):
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        link_threshold(CONTRACT, 100, far)


def test_a_model_without_thresholds_is_refused():
    with pytest.raises(UsageError, match="no measured thresholds"):
        link_threshold(dataclasses.replace(CONTRACT, thresholds={}), 100)


def test_a_threshold_that_is_no_score_is_refused():
    with pytest.raises(UsageError, match="between -1 and 1"):
        group_faces(people(2, 2)[0], np.arange(4), 1.5)


def test_ten_thousand_faces_take_at_most_ten_seconds_of_a_core():
    rows, names = people(1000, 10)
    before = time.thread_time()
    groups = group_faces(rows, np.arange(len(rows)), 0.45)
    assert time.thread_time() - before <= 10
    assert same(groups, names)


def test_pins_by_the_rule_and_at_the_contract_s_rate(shared: Path):
    from benchmarks.group import TRIED, b_cubed, dbscan, distances
    from edgeface_runtime import ImageError
    from edgeface_runtime.detection.find import find_faces, most_central
    from edgeface_runtime.images import open_rgb

    recognizer = FaceRecognizer()
    rows, names = [], []
    for person in sorted((shared / "data" / "pins").iterdir())[::3]:
        for photo in sorted(person.glob("*.jpg"))[::8]:
            try:
                pixels = open_rgb(photo)
            except ImageError:
                continue
            if faces := find_faces(pixels, recognizer.detector)[0]:
                rows.append(recognizer.embed(pixels, [most_central(faces, *pixels.shape[:2])])[0])
                names.append(person.name)
    embeddings, truth = np.stack(rows), np.array(names)
    limit = link_threshold(recognizer.model.contract, len(rows)).value
    score = b_cubed(truth, group_faces(embeddings, np.arange(len(rows)), limit))[0]
    graph = distances(embeddings)
    peer = max(b_cubed(truth, dbscan(graph, value, 2))[0] for value in TRIED)
    assert score >= 0.93
    assert score > peer


def test_b_cubed_of_a_worked_example():
    """Amigo et al., "A comparison of extrinsic clustering evaluation metrics", Information Retrieval 2009: by hand."""
    from benchmarks.group import b_cubed

    names, groups = np.array(list("aaabb")), np.array([0, 0, 1, 1, 1])
    precision = (1 + 1 + 1 / 3 + 2 / 3 + 2 / 3) / 5
    recall = (2 / 3 + 2 / 3 + 1 / 3 + 1 + 1) / 5
    wanted = (2 * precision * recall / (precision + recall), precision, recall)
    assert b_cubed(names, groups) == pytest.approx(wanted)
