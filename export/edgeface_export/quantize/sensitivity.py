"""Mixed precision: which layers int8 costs most, and the fewest to exclude from quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_export.gate import compare_speed
from edgeface_export.quantize.static import Calibrated
from edgeface_runtime import Contract, load

PROBED = 32
"""Faces that a layer's sensitivity is measured on."""


@dataclass(frozen=True)
class ExcludedLayer:
    """A layer that stays float in an int8 file, and what that costs."""

    layer: str
    cosine_alone: float
    """Its sensitivity: the mean cosine to the source model when this layer alone is int8."""
    size_bytes: int
    """By how much it lengthens the file."""
    latency_ratio: float
    """Processor time with it in float ÷ with it in int8, the other excluded layers in float."""

    def as_json(self) -> dict[str, object]:
        """One row of ``float_layers`` in ``export --json``."""
        return dict(vars(self))


def sensitivities(
    job: Calibrated,
    method: str,
    contract: Contract,
    faces: NDArray[np.uint8],
    expected: NDArray[np.float32],
    path: Path,
    track: Callable[[list[str], str], Iterable[str]] = lambda layers, _: layers,
) -> dict[str, float]:
    """Layer → mean cosine to the source model when it alone is int8, the most sensitive first.

    Args:
        job: what is written.
        method: of calibration.
        contract: of the input.
        faces: (N, S, S, 3) uint8 RGB; ``PROBED`` of them, evenly taken, are embedded.
        expected: (N, D) the source model's embeddings of ``faces``.
        path: a file to write over and over.
        track: tells how far it is, (layers, title).
    """
    # The faces lie person by person: evenly taken, they show many people.
    chosen = np.unique(np.linspace(0, len(faces) - 1, PROBED).astype(np.int64))
    found = {}
    for layer in track(list(job.layers), "layers tried"):
        # Alone in int8, not alone in float: beside the errors of all others its own would not be seen.
        job.write(path, method, [other for other in job.layers if other != layer])
        embeddings = load(path, contract=contract).embed(faces[chosen])
        found[layer] = float((embeddings * expected[chosen]).sum(axis=1).mean())
    return dict(sorted(found.items(), key=lambda item: item[1]))


def exclude_layers(
    job: Calibrated,
    method: str,
    contract: Contract,
    alone: Mapping[str, float],
    fits: Callable[[Path], bool],
    path: Path,
    track: Callable[[list[str], str], Iterable[str]] = lambda layers, _: layers,
) -> tuple[ExcludedLayer, ...] | None:
    """The fewest layers to exclude so that the file fits; None where half of the layers do not suffice.

    The most sensitive 1, 2, 4 … layers are excluded until the file fits; then each is included again that need not
    be excluded. Two layers that share a tensor which int8 cannot hold are found together in this way.

    Args:
        job: what is written.
        method: of calibration.
        contract: of the input.
        alone: by ``sensitivities``.
        fits: whether a written file is good enough.
        path: a file to write over and over; one beside it serves too.
        track: tells how far it is, (layers, title).
    """
    order, most = list(alone), (len(alone) + 1) // 2
    # Each trial writes a file and measures it: doubling takes few of them.
    count = 1
    while not fits(job.write(path, method, order[:count])):
        if count == most:
            return None
        count = min(2 * count, most)
    excluded, without = order[:count], path.with_stem(f"{path.stem}-without")
    found = []
    # The least sensitive first: it is the likeliest to be there because of the doubling alone.
    for layer in track(order[:count][::-1], "excluded layers tried in int8 again"):
        rest = [other for other in excluded if other != layer]
        if fits(job.write(without, method, rest)):
            excluded = rest
            continue
        # Written anew, for the two files compared must differ in this layer alone.
        job.write(path, method, excluded)
        with_it, in_int8 = compare_speed([load(file, contract=contract) for file in (path, without)])
        size = path.stat().st_size - without.stat().st_size
        found.append(ExcludedLayer(layer, alone[layer], size, with_it / in_int8))
    return tuple(reversed(found))
