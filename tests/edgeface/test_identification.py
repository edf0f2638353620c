from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from edgeface.evaluation.identification import confusion, figures, identify, per_identity
from edgeface_runtime import UsageError


def faces(people: int, photos: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(0).normal(size=(people, 16))
    labels = np.repeat(np.arange(people) * 3 + 5, photos)
    rows = np.repeat(centres, photos, axis=0) + np.random.default_rng(seed).normal(0, noise, (len(labels), 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def slow_form(gallery, gallery_labels, probes, probe_labels) -> dict[str, float]:
    """Loops over people and photos, and the textbook definitions of the four figures."""
    centroids = {}
    for person in sorted(set(gallery_labels)):
        rows = [row for row, label in zip(gallery, gallery_labels, strict=True) if label == person]
        mean = sum(rows) / len(rows)
        centroids[person] = mean / np.linalg.norm(mean)
    named = [max(centroids, key=lambda person: float(centroids[person] @ probe)) for probe in probes]
    precisions, recalls, f1s = [], [], []
    for person in sorted(set(probe_labels)):
        hits = sum(a == b == person for a, b in zip(named, probe_labels, strict=True))
        precision = hits / named.count(person) if named.count(person) else 0.0
        recall = hits / list(probe_labels).count(person)
        precisions.append(precision)
        recalls.append(recall)
        f1s.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return {
        "accuracy": sum(a == b for a, b in zip(named, probe_labels, strict=True)) / len(named),
        "precision": sum(precisions) / len(precisions),
        "recall": sum(recalls) / len(recalls),
        "f1": sum(f1s) / len(f1s),
    }


@pytest.mark.parametrize("noise", [0.1, 1.5, 4.0])
def test_figures_are_those_of_the_slow_form(noise: float):
    gallery, probes = faces(7, 5, noise, seed=1), faces(7, 3, noise, seed=2)
    found = asdict(figures(identify(*gallery, *probes)))
    for name, value in slow_form(*gallery, *probes).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert (found["photos"], found["identities"], found["method"]) == (21, 7, "nearest centroid")


def test_a_person_of_the_gallery_without_probes_does_not_enter_the_means():
    (gallery, gallery_labels), (probes, probe_labels) = faces(4, 5, 0.01, seed=1), faces(4, 3, 0.01, seed=2)
    kept = probe_labels != probe_labels[0]
    result = figures(identify(gallery, gallery_labels, probes[kept], probe_labels[kept]))
    assert (result.accuracy, result.precision, result.recall, result.f1) == (1.0, 1.0, 1.0, 1.0)


def test_bad_input_is_refused():
    gallery, probes = faces(4, 5, 0.1, seed=1), faces(5, 3, 0.1, seed=2)
    with pytest.raises(UsageError, match="1 identities have held-out photos but none in the gallery"):
        identify(*gallery, *probes)
    with pytest.raises(UsageError, match="held-out photos"):
        identify(*gallery, probes[0][:0], probes[1][:0])
    one = gallery[1] == gallery[1][0]
    with pytest.raises(UsageError, match="two identities"):
        identify(gallery[0][one], gallery[1][one], gallery[0][one], gallery[1][one])


@pytest.mark.parametrize("people", [2, 6])
def test_svc_is_scikit_learns_on_the_components_of_a_plain_svd(people: int):
    from sklearn.svm import SVC

    (gallery, labels), (probes, truth) = faces(people, 12, 1.0, seed=1), faces(people, 5, 1.0, seed=2)
    given = identify(gallery, labels, probes, truth, method="svc")
    mean = gallery.astype(float).mean(axis=0)
    _, _, axes = np.linalg.svd(gallery - mean, full_matrices=False)
    # A classifier of the kernel e^(-γ|a-b|²) does not see a turn of its space, so all 16 axes must give the same.
    plain = SVC(C=10.0, gamma="scale").fit((gallery - mean) @ axes.T, labels)
    expected = plain.decision_function((probes - mean) @ axes.T)
    expected = np.where(expected > 0, labels[-1], labels[0]) if people == 2 else np.unique(labels)[expected.argmax(1)]
    assert given.named.tolist() == expected.tolist()
    assert given.method == "PCA + SVC"


def test_svc_tells_apart_what_centroids_cannot():
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = (np.arange(60) // 15) % 2  # quarters of a circle in turn: both centroids lie in its middle
    by = {
        method: figures(identify(ring[::2], labels[::2], ring[1::2], labels[1::2], method=method))
        for method in ("centroid", "svc")
    }
    assert by["svc"].accuracy > 0.9 > by["centroid"].accuracy


def test_confusion_and_people_are_those_of_counting():
    (gallery, labels), (probes, truth) = faces(5, 6, 2.5, seed=1), faces(5, 8, 2.5, seed=2)
    given = identify(gallery, labels, probes, truth)
    matrix = confusion(given, int(labels.max()) + 1)
    pairs = list(zip(truth.tolist(), given.named.tolist(), strict=True))
    assert any(a != b for a, b in pairs)
    for a in range(len(matrix)):
        for b in range(len(matrix)):
            assert matrix[a, b] == pairs.count((a, b))
    rows = per_identity(given)
    assert [row.recall for row in rows] == sorted(row.recall for row in rows)
    for row in rows:
        wrong = [named for is_, named in pairs if is_ == row.label and named != is_]
        assert row.photos == 8
        assert row.recall == pytest.approx(1 - len(wrong) / 8)
        assert (row.taken_for is None) == (not wrong)
        assert row.taken_for is None or wrong.count(row.taken_for) == max(map(wrong.count, wrong))


def test_an_unknown_method_is_refused():
    both = faces(3, 3, 0.1, seed=1)
    with pytest.raises(UsageError, match="--method knn: choose centroid, svc or head"):
        identify(*both, *both, method="knn")
