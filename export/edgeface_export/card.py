"""The model card: what a person should know before using the files, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgeface_runtime import Contract

CAVEATS = (
    "The threshold behind an accuracy is the best one on the pairs that it is measured on, so the figure flatters.",
    "Intervals of accuracy take pairs as independent. Pairs that share a person are not: the truth is less certain.",
    "Photos of other light, age, skin or camera than the ones measured here may give other figures. Measure on your "
    "own photos: `edgeface eval`.",
    "A cosine above a threshold is evidence, not proof, that two photos show one person.",
)


def model_card(files: Sequence[dict[str, Any]], contract: Contract) -> str:
    """The card of files made in one go from one parent.

    Args:
        files: rows of ``export --json``.
        contract: of any of them; what differs between files is taken from ``files``.
    """
    spec = contract.input
    names = [Path(file["path"]).name for file in files]
    found = [file["accuracy"]["verification"] for file in files]
    rows = [
        (
            name,
            f"{file['size_bytes']:,}",
            f"`{file['recipe']}`",
            f"{file['cosine_mean']:.5f}",
            f"{100 * at['value']:.2f} % ({100 * at['low']:.2f} to {100 * at['high']:.2f})",
            f"{at['drop_points']:+.3f} ({at['drop_low']:+.3f} to {at['drop_high']:+.3f})",
        )
        for name, file, at in zip(names, files, found, strict=True)
    ]
    fed = "pixels as they are" if spec.dtype == "uint8" else f"(pixel − {spec.mean}) / {spec.std}"
    people = contract.accuracy.get("thresholds", {})
    sections = (
        f"# {contract.name}",
        f"A face embedder ({contract.backbone}): one aligned face of {spec.size} × {spec.size} pixels in, "
        f"{contract.embedding.length} numbers out. Compare two faces by the cosine of their embeddings.",
        f"Input: {spec.layout} {spec.dtype}, {spec.colour}, {fed}. Each file carries its contract; `edgeface inspect` "
        "prints it.",
        "## Files",
        _table(("file", "bytes", "recipe", "cosine to parent", "accuracy", "drop, points"), rows),
        f"Accuracy and drop: verification on {found[0]['pairs']} held-out pairs, with 95 % intervals. A positive drop "
        "is a loss against the parent.",
        *_quantized(names, files),
        "## Thresholds",
        _thresholds(names, files, people),
        "## Data and licence",
        "\n".join(
            (
                f"- Training data, sha256: {contract.data_sha256 or 'unknown'}",
                f"- Parent, sha256: {contract.parent_sha256 or 'unknown'}",
                f"- Licence that the training photos impose: {contract.licence}",
            )
        ),
        "## Caveats",
        "\n".join(f"- {caveat}" for caveat in CAVEATS),
    )
    return "\n\n".join(sections) + "\n"


def _quantized(names: Sequence[str], files: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each file whose ranges were taken from faces."""
    lines = []
    for name, file in zip(names, files, strict=True):
        if file["calibrator"] is not None:
            layers = ", ".join(f"`{kept['layer']}`" for kept in file["float_layers"])
            kept = f"kept in float, because int8 cost too much there: {layers}" if layers else "no layer kept in float"
            lines.append(f"- {name}: ranges by {file['calibrator']}; {kept}.")
    return ["\n".join(lines)] if lines else []


def _thresholds(names: Sequence[str], files: Sequence[dict[str, Any]], people: dict[str, Any]) -> str:
    asked = sorted(files[0]["thresholds"], key=float, reverse=True)
    rates = [rate for rate in asked if files[0]["thresholds"][rate]]
    said = [f"- FAR {rate}: none: {people['missing'][rate]}." for rate in asked if rate not in rates]
    if not rates:
        return "\n".join(said or ["None were measured."])
    rows = [
        (name, rate, f"{item['value']:.4f} ({item['low']:.4f} to {item['high']:.4f})", f"{100 * item['tar']:.2f} %")
        for name, file in zip(names, files, strict=True)
        for rate in rates
        for item in [file["thresholds"][rate]]
    ]
    intro = (
        f"Accept when the cosine reaches the threshold. Measured all against all on {people['photos']} photos of "
        f"{people['people']} people that the net was not trained on; 95 % intervals over people."
    )
    table = _table(("file", "false-accept rate", "threshold", "accepted of the same person"), rows)
    return "\n\n".join([intro, table, *(["\n".join(said)] if said else [])])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
