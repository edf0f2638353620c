"""Heads as their formulas are written, one logit at a time, in float64."""

from __future__ import annotations

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(a * a) * sum(b * b)))


def cosface(embeddings: np.ndarray, centres: np.ndarray, labels: list[int], s: float, m: float) -> np.ndarray:
    logits = np.zeros((len(embeddings), len(centres)))
    for row, embedding in enumerate(embeddings):
        for column, centre in enumerate(centres):
            logits[row, column] = s * (cosine(embedding, centre) - (m if column == labels[row] else 0.0))
    return logits


def softmax(embeddings: np.ndarray, centres: np.ndarray, bias: np.ndarray) -> np.ndarray:
    logits = np.zeros((len(embeddings), len(centres)))
    for row, embedding in enumerate(embeddings):
        for column, centre in enumerate(centres):
            logits[row, column] = sum(x * y for x, y in zip(embedding, centre, strict=True)) + bias[column]
    return logits


def adaface(
    embeddings: np.ndarray, centres: np.ndarray, labels: list[int], s: float, m: float, mean: float, std: float
) -> np.ndarray:
    """Equations 13 to 15 of the paper with h = 0.33, and the 0.001 beside the deviation that the authors' code has."""
    logits = np.zeros((len(embeddings), len(centres)))
    for row, embedding in enumerate(embeddings):
        length = math.sqrt(sum(embedding * embedding))
        quality = max(-1.0, min(1.0, (length - mean) / ((std + 1e-3) / 0.33)))
        for column, centre in enumerate(centres):
            found = cosine(embedding, centre)
            if column == labels[row]:
                angle = min(max(math.acos(found) - m * quality, 0.0), math.pi)
                found = math.cos(angle) - (m * quality + m)
            logits[row, column] = s * found
    return logits


def magface(
    embeddings: np.ndarray, centres: np.ndarray, labels: list[int], s: float, m: float
) -> tuple[np.ndarray, list[float]]:
    """Logits with a margin that is linear in the length, and 35 times the penalty g of the length (section 3.2).

    Bounds of the length 10 and 110, of the margin m and 0.8 / 0.45 m, as in section 4.1 of the paper.
    """
    logits, penalties = np.zeros((len(embeddings), len(centres))), []
    for row, embedding in enumerate(embeddings):
        length = math.sqrt(sum(embedding * embedding))
        penalties.append(35 * (1 / length + length / 110**2))
        margin = m + (m * 0.8 / 0.45 - m) * (min(max(length, 10.0), 110.0) - 10) / (110 - 10)
        for column, centre in enumerate(centres):
            angle = math.acos(cosine(embedding, centre))
            logits[row, column] = s * math.cos(angle + (margin if column == labels[row] else 0.0))
    return logits, penalties
