"""The model card: what a person should know before using the files, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeface_export.options import ExportOptions
from edgeface_export.result import ExportedFile

CAVEATS = (
    "The threshold behind an accuracy is the best one on the pairs that it is measured on, so the figure flatters.",
    "Intervals of accuracy take pairs as independent. Pairs that share a person are not: the truth is less certain.",
    "Photos of other light, age, skin or camera than the ones measured here may give other figures. Measure on your "
    "own photos: `edgeface eval`.",
    "A cosine above a threshold is evidence, not proof, that two photos show one person.",
)


def model_card(files: Sequence[ExportedFile], options: ExportOptions) -> str:
    """The card of files made in one go from one source model, by these options."""
    contract = files[0].contract  # what differs between files is taken from each
    spec = contract.input
    rows = [
        (
            file.path.name,
            f"{file.size_bytes:,}",
            f"`{file.contract.recipe}`",
            f"{file.cosine_mean:.5f}",
            f"{100 * at['value']:.2f} % ({100 * at['low']:.2f} to {100 * at['high']:.2f})",
            f"{at['drop_points']:+.3f} ({at['drop_low']:+.3f} to {at['drop_high']:+.3f})",
        )
        for file in files
        for at in [file.contract.accuracy["verification"]]
    ]
    fed = "pixels as they are" if spec.dtype == "uint8" else f"(pixel − {spec.mean}) / {spec.std}"
    sections = (
        f"# {contract.name}",
        f"A face embedder ({contract.backbone}): one aligned face of {spec.size} × {spec.size} pixels in, "
        f"{contract.embedding.length} numbers out. Compare two faces by the cosine of their embeddings.",
        f"Input: {spec.layout} {spec.dtype}, {spec.colour}, {fed}. Each file carries its contract; `edgeface inspect` "
        "prints it.",
        "## Files",
        _table(("file", "bytes", "recipe", "cosine to source model", "accuracy", "drop, points"), rows),
        f"Accuracy and drop: verification on {files[0].drop.pairs} evaluation pairs, with 95 % intervals. A positive "
        "drop is a loss against the source model.",
        *_quantized(files),
        f"Export options: {', '.join(_option(name, value) for name, value in options.as_json().items())}.",
        "## Thresholds",
        _thresholds(files),
        "## Data and licence",
        "\n".join(
            (
                f"- Training data, sha256: {contract.data_sha256 or 'unknown'}",
                f"- Source model, sha256: {contract.parent_sha256 or 'unknown'}",
                f"- Licence that the training photos impose: {contract.licence}",
            )
        ),
        "## Caveats",
        "\n".join(f"- {caveat}" for caveat in CAVEATS),
    )
    return "\n\n".join(sections) + "\n"


def _option(name: str, value: object) -> str:
    return f"{name} {' and '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _quantized(files: Sequence[ExportedFile]) -> list[str]:
    """A line for each file whose ranges were taken from faces."""
    lines = []
    for file in files:
        if file.calibrator is not None:
            layers = ", ".join(f"`{item.layer}`" for item in file.excluded)
            said = f"excluded from quantization, because too sensitive: {layers}" if layers else "no layer excluded"
            lines.append(f"- {file.path.name}: ranges by {file.calibrator}; {said}.")
    return ["\n".join(lines)] if lines else []


def _thresholds(files: Sequence[ExportedFile]) -> str:
    first, people = files[0].contract.thresholds, files[0].contract.accuracy.get("thresholds", {})
    asked = sorted(first, key=float, reverse=True)
    rates = [rate for rate in asked if first[rate]]
    said = [f"- FMR {rate}: none: {people['missing'][rate]}." for rate in asked if rate not in rates]
    if not rates:
        return "\n".join(said or ["None were measured."])
    rows = [
        (
            file.path.name,
            rate,
            f"{item['value']:.4f} ({item['low']:.4f} to {item['high']:.4f})",
            f"{100 * item['tar']:.2f} %",
        )
        for file in files
        for rate in rates
        for item in [file.contract.thresholds[rate]]
    ]
    intro = (
        f"Accept when the cosine reaches the threshold. Measured all against all on {people['photos']} photos of "
        f"{people['people']} people that the model was not trained on; 95 % intervals over people."
    )
    table = _table(("file", "false match rate (FMR)", "threshold", "genuine pairs accepted"), rows)
    return "\n\n".join([intro, table, *(["\n".join(said)] if said else [])])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
