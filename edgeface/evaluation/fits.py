"""What scikit-learn computes for an evaluation; imported where it is called, so that a bench needs no scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

COMPONENTS = 128
"""Principal components that go into the SVC, where the gallery has as many."""


def logistic(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, intercept) of the log odds that a pair with such a score shows one person, fitted to (P,) pairs."""
    fit = LogisticRegression(C=1000).fit(scores[:, None], same)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def per_label(
    truth: NDArray[np.int64], named: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """(precision, recall, F1, photos) of (M,) answers, each (K,) for K labels; precision is 0 where nobody is named."""
    precision, recall, f1, photos = metrics.precision_recall_fscore_support(
        truth, named, labels=labels, zero_division=0.0
    )
    return precision, recall, f1, photos


def svc_scores(
    gallery_ND: NDArray[np.float32], index: NDArray[np.int64], probe_ND: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(M, K) decisions of a support vector classifier on principal components, fitted on the gallery."""
    components = min(COMPONENTS, *gallery_ND.shape)
    pipeline = make_pipeline(PCA(components, svd_solver="full"), SVC(C=10.0, gamma="scale"))
    pipeline.fit(gallery_ND.astype(np.float64), index)
    scores: NDArray[np.float64] = pipeline.decision_function(probe_ND.astype(np.float64))
    # Of two classes scikit-learn gives one column, the second one's.
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
