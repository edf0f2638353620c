"""ArcFace's logits as the formula is written, one number at a time, in float64."""

from __future__ import annotations

import math

import numpy as np


def arcface_logits(embeddings: np.ndarray, weight: np.ndarray, labels: np.ndarray, s: float, m: float) -> np.ndarray:
    """(N, D), (K, D), (N,) → (N, K): s·cos θ, and of the label s·cos(θ + m), past π s·(cos θ − m·sin(π − m))."""
    logits = np.zeros((len(embeddings), len(weight)))
    for n, embedding in enumerate(embeddings.astype(np.float64)):
        for k, centre in enumerate(weight.astype(np.float64)):
            dot = sum(a * b for a, b in zip(embedding, centre, strict=True))
            length = math.sqrt(sum(a * a for a in embedding)) * math.sqrt(sum(b * b for b in centre))
            cosine = max(-1.0, min(1.0, dot / length))
            theta = math.acos(cosine)
            if k != labels[n]:
                logits[n, k] = s * cosine
            elif theta + m <= math.pi:
                logits[n, k] = s * math.cos(theta + m)
            else:
                logits[n, k] = s * (cosine - m * math.sin(math.pi - m))
    return logits
