"""What a model file format is to an export. The modules beside this one are the formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeface_export.quantize.ranges import Range
from edgeface_runtime import Contract

Inputs = NDArray[np.uint8 | np.float32]
"""(N, …) what a graph takes for N faces."""
Writer = Callable[[Path, Path], object]
"""Writes a file, (float file, where to)."""


class Format(Protocol):
    """How files of one format are written from a float file, looked into, and stamped."""

    WRITERS: dict[str, Writer]
    """Precision → what writes such a file without calibration."""

    def operators(self, path: Path, source: Contract) -> dict[str, Counter[str]]:
        """``int8``, ``float``, ``other`` → operators by name; ``source`` is the source model's contract."""

    def make_portable(self, path: Path) -> None:
        """Rewrites a finished file so that more engines read it; what it computes stays the same."""

    def write_contract(self, path: Path, text: str) -> None:
        """Stores the contract's JSON inside the file, replacing one that is there."""


class StaticFormat(Format, Protocol):
    """A format that torch modules are written as, and that static int8 is made in.

    A prepared file is a float file that is fit for the static quantizer. A layer is a convolution or matrix product
    with what follows it up to the next one; layers go by name, in the order of computing.
    """

    def write_float(self, module: nn.Sequential, size: int, path: Path) -> None:
        """The fp32 file of a module (N, S, S, 3) uint8 → (N, D) float, with S = ``size``."""

    def prepare(self, source: Path, folder: Path) -> Path:
        """A prepared file, in the folder where it is not the float file itself."""

    def layers(self, prepared: Path) -> dict[str, tuple[str, ...]]:
        """Layer → its operators, as ``write_int8`` names them."""

    def observe(self, prepared: Path, inputs: Inputs) -> Iterator[dict[str, NDArray[np.float32]]]:
        """For each face, tensor → its values, of every tensor whose range static int8 needs."""

    def rounding_shifts(self, prepared: Path, inputs: Inputs) -> dict[str, NDArray[np.float32]]:
        """Layer → (C,) what its channels gain on average over the faces when its weights alone are rounded."""

    def shift_biases(self, prepared: Path, shifts: Mapping[str, NDArray[np.float32]], path: Path) -> None:
        """Writes the prepared file with ``shifts`` taken from the biases of its layers."""

    def write_int8(
        self, prepared: Path, ranges: Mapping[str, Range], path: Path, excluded: Collection[str] = ()
    ) -> None:
        """Writes static int8 with these activation ranges; the operators ``excluded`` stay float."""
