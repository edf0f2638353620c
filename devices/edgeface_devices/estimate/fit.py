"""Latency from a net's costs: non-negative least squares in relative error, and how far it errs on families left out.

The form was frozen before it was scored (docs/estimates.md): per board, precision and thread count

    float: ms = a·pointwise + b·conv + c·depthwise + d·activations + e·parameters + f·layers
    int8:  ms = a·macs + d·activations + f·layers

scaled so that the median of published over fitted is 1. The interval is symmetric in the logarithm; its half
width is the conformal 90 % quantile of the errors on nets whose whole family was left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgeface_devices.estimate.published import Net, families, nets

LEAST_MACS, MOST_MACS, MOST_LINEAR = 50.0, 2000.0, 4.0
"""In millions. The published nets begin at 106 and thin out beyond 2000; fully connected weights above 4 M
(AlexNet, VGG16) took 0.6 to 3.0 times what the form predicts."""
_COVERAGE = 0.9

Array = NDArray[np.float64]


def nnls(matrix: Array, target: Array) -> Array:
    """The x ≥ 0 of least ‖matrix·x − target‖ (Lawson and Hanson 1974, chapter 23).

    Args:
        matrix: (rows, columns).
        target: (rows,).
    """
    count = matrix.shape[1]
    x, free = np.zeros(count), np.zeros(count, bool)
    for _ in range(3 * count):
        gradient = np.where(free, -np.inf, matrix.T @ (target - matrix @ x))
        if free.all() or gradient.max() < 1e-9:
            break
        free[gradient.argmax()] = True
        while True:
            step = np.zeros(count)
            step[free] = np.linalg.lstsq(matrix[:, free], target, rcond=None)[0]
            wrong = free & (step <= 0)
            if not wrong.any():
                x = step
                break
            x = x + (x[wrong] / (x[wrong] - step[wrong])).min() * (step - x)
            free &= x > 1e-12
    return x


def features(net: Net, precision: str) -> list[float]:
    """The terms of the form, each growing with the net."""
    if precision == "int8":
        return [net.macs, net.activations, net.layers]
    return [net.pointwise, net.conv, net.depthwise, net.activations, net.parameters, net.layers]


def coefficients(times: Mapping[str, float], precision: str) -> Array:
    """Milliseconds a unit of each feature, fitted to net → milliseconds."""
    matrix = np.array([features(nets()[name], precision) for name in times])
    published = np.array(list(times.values()))
    relative = matrix / published[:, None]
    scale = relative.mean(axis=0)
    scale[scale == 0] = 1.0
    x = nnls(relative / scale, np.ones(len(published))) / scale
    centre = float(np.exp(np.median(np.log(matrix @ x / published))))
    return np.asarray(x / centre)


def predict(net: Net, times: Mapping[str, float], precision: str) -> float:
    """Milliseconds of a net from the published times of others on one board."""
    return float(np.array(features(net, precision)) @ coefficients(times, precision))


def is_fitted_on(name: str) -> bool:
    """Whether a published net takes part: all but those with big fully connected layers."""
    return nets()[name].linear <= MOST_LINEAR and nets()[name].macs <= 2 * MOST_MACS


def is_scored(name: str) -> bool:
    """Whether a published net lies where estimates are given."""
    return is_fitted_on(name) and LEAST_MACS <= nets()[name].macs <= MOST_MACS


def errors(times: Mapping[str, float], precision: str, group: Callable[[str], str]) -> dict[str, float]:
    """Net → log(predicted ÷ published) when all nets of its group are left out of the fit."""
    found = {}
    for name in filter(is_scored, times):
        others = {other: ms for other, ms in times.items() if group(other) != group(name)}
        found[name] = math.log(predict(nets()[name], others, precision) / times[name])
    return found


def by_family(name: str) -> str:
    """Group of a net: its family."""
    return families()[name]


def half_width(logs: Iterable[float]) -> float:
    """The factor that 90 % of the errors stay within: conformal, the largest where there are fewer than 9."""
    sizes = sorted(map(abs, logs))
    rank = min(math.ceil(_COVERAGE * (len(sizes) + 1)), len(sizes))
    return math.exp(sizes[rank - 1])
