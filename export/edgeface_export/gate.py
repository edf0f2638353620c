"""The gate: a file is as good as its source model on the evaluation set, or it does not get its name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from edgeface_export.accuracy import Parity
from edgeface_export.recipes import Recipe
from edgeface_runtime import InputSpec

Operators = Mapping[str, Counter[str]]
"""``int8``, ``float``, ``other`` → operators of a file by name."""


def is_int8(operators: Operators, recipe: Recipe, spec: InputSpec) -> bool:
    """True where as many operators compute in int8 as the recipe asks for."""
    int8, others = operators["int8"].total(), operators["float"].total()
    # Preprocessing inside the graph, a subtraction and a product, stays float on purpose: VGG11 has 14 operators else.
    others -= 2 if spec.dtype == "uint8" else 0
    return int8 >= recipe.min_int8 * (int8 + others)


def refusal(
    name: str, parity: Parity, recipe: Recipe, max_drop: float, *, operators: Operators, spec: InputSpec, mixed: bool
) -> str | None:
    """Why a file does not get its name; None when it does.

    Args:
        name: of the file.
        parity: to its source model.
        recipe: by which it was made.
        max_drop: accuracy that it may lose, in percentage points.
        operators: of the file.
        spec: of its input.
        mixed: True where layers were excluded from quantization on purpose.
    """
    if not math.isfinite(parity.cosine_p1):
        return f"{name}: gives embeddings that are no numbers"
    if parity.cosine_p1 < recipe.min_cosine:
        least = f"at least {recipe.min_cosine} is needed"
        return f"{name}: cosine to the source model {parity.cosine_p1:.6f}, {least}"
    if not mixed and not is_int8(operators, recipe, spec):
        floats = operators["float"]
        listed = ", ".join(f"{operator} {count}" for operator, count in sorted(floats.items()))
        return f"{name}: {floats.total()} operators cannot be quantized and stayed float: {listed}"
    if parity.drop.points > max_drop:
        lost = f"loses {parity.drop.points:.3f} points on {parity.drop.pairs} pairs"
        return f"{name}: {lost}, at most {max_drop} are allowed"
    return None
