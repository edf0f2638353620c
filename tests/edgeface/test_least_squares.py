"""The linear fit against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge

from edgeface.training.least_squares import fit_linear


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(0, 3, 5), rng.uniform(0.5, 2, 5), (count, 5))
    return x, x @ rng.normal(0, 1, (5, 3)) + rng.normal(2, 0.5, (count, 3))


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 10), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_parts_are_fitted_as_scikit_learn_fits_the_whole(seed: int, ridge: float, parts: list[int]):
    x, y = rows(seed, sum(parts) + 2)
    cuts = np.cumsum(parts)
    pieces = [tuple(map(torch.from_numpy, pair)) for pair in zip(np.split(x, cuts), np.split(y, cuts), strict=True)]
    weight, bias = fit_linear(pieces, ridge)
    centred = x - x.mean(0)
    theirs = Ridge(ridge * np.diagonal(centred.T @ centred).mean()).fit(x, y)
    np.testing.assert_allclose(weight.numpy(), theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), theirs.intercept_, atol=1e-4)


def test_without_a_ridge_it_is_least_squares():
    x, y = rows(0, 50)
    weight, bias = fit_linear([(torch.from_numpy(x), torch.from_numpy(y))], 0.0)
    theirs = LinearRegression().fit(x, y)
    np.testing.assert_allclose(weight.numpy(), theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), theirs.intercept_, atol=1e-5)
