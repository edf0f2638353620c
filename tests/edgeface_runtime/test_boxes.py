"""Overlap and suppression against one-pair-at-a-time loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeface_runtime.detection.boxes import overlap, square, suppress

box = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20))


def corners(rows: list[tuple[int, int, int, int]]) -> np.ndarray:
    return np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32).reshape(-1, 4)


def slow_overlap(a: np.ndarray, b: np.ndarray, smaller: bool, edge: int) -> float:
    def area(box: np.ndarray) -> float:
        return float((box[2] - box[0] + edge) * (box[3] - box[1] + edge))

    wide = min(a[2], b[2]) - max(a[0], b[0]) + edge
    high = min(a[3], b[3]) - max(a[1], b[1]) + edge
    shared = float(max(wide, 0) * max(high, 0))
    return shared / (min(area(a), area(b)) if smaller else area(a) + area(b) - shared)


@given(rows=st.lists(box, min_size=1, max_size=8), smaller=st.booleans(), edge=st.integers(0, 1))
def test_overlap_of_each_pair(rows: list[tuple[int, int, int, int]], smaller: bool, edge: int) -> None:
    boxes = corners(rows)
    expected = [[slow_overlap(a, b, smaller, edge) for b in boxes] for a in boxes]
    assert np.allclose(overlap(boxes, boxes, smaller=smaller, edge=edge), expected, atol=1e-6)


@given(rows=st.lists(box, max_size=40), threshold=st.sampled_from([0.2, 0.35, 0.6]), seed=st.integers(0, 99))
def test_suppression_is_greedy(rows: list[tuple[int, int, int, int]], threshold: float, seed: int) -> None:
    boxes = corners(rows)
    scores = np.random.default_rng(seed).random(len(boxes)).astype(np.float32)
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(overlap(boxes[[i]], boxes[[j]])[0, 0] <= np.float32(threshold) for j in kept):
            kept.append(int(i))
    assert suppress(boxes, scores, threshold).tolist() == kept


def test_suppression_over_many_blocks_equals_one() -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 60, (900, 2))
    boxes = np.concatenate([start, start + rng.integers(5, 30, (900, 2))], axis=1).astype(np.float32)
    scores = rng.random(900).astype(np.float32)
    kept = suppress(boxes, scores, 0.3)
    near = overlap(boxes[kept], boxes[kept])
    np.fill_diagonal(near, 0)
    assert near.max() <= 0.3
    gone = np.setdiff1d(np.arange(900), kept)
    better = scores[kept][:, None] > scores[gone]
    assert ((overlap(boxes[kept], boxes[gone]) > 0.3) & better).any(axis=0).all()


def test_equal_scores_keep_their_order() -> None:
    assert suppress(corners([(0, 0, 5, 5), (20, 20, 5, 5)]), np.ones(2, np.float32), 0.5).tolist() == [0, 1]


def test_square_keeps_the_centre() -> None:
    assert square(corners([(10, 0, 4, 20)])).tolist() == [[2, 0, 22, 20]]
