"""CosFace and plain softmax as their formulas are written, one logit at a time, in float64."""

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
