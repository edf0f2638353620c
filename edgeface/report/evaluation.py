"""What ``edgeface eval`` shows: confusion matrix, ROC and DET, the wrongly named photos, tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData
from edgeface.evaluation import Evaluation
from edgeface.evaluation.examples import Example
from edgeface.evaluation.identification import Answers, confusion, per_identity
from edgeface.evaluation.verification import Pairs
from edgeface.report.open_set import draw_open_set, open_set_pictures
from edgeface.report.pictures import COLOURS, INK, STYLE, as_svg, face_uri
from edgeface.templates import environment
from edgeface_runtime import UsageError
from edgeface_runtime.files import make_folder, replacing, spreadsheet_safe, write_text, write_whole

SHOWN = 60
"""Confusions on a page."""
_LABELLED = 30
"""Identities whose names still fit beside a matrix."""
_LEAST = 1e-6


def write_folder(folder: Path, result: Evaluation, data: FaceData | None, example: Example | None = None) -> list[Path]:
    """Writes what was measured as CSV and PNG files, and gives their paths.

    ``confusion.csv``, ``confusion.png``, ``identities.csv``; ``roc.png``, ``det.png``; ``groups.csv``;
    ``open_set.csv``, ``open_set_1.png`` …; ``example.png``.

    Raises:
        UsageError: the folder cannot be written.
    """
    tables: dict[str, str] = {}
    drawn: dict[str, Figure] = {}
    if result.answers is not None and data is not None:
        matrix = confusion(result.answers, len(data.identities))
        tables["confusion.csv"] = _csv(["", *data.identities], zip(data.identities, *matrix.T.tolist(), strict=True))
        tables["identities.csv"] = _csv(*_people_table(result.answers, data))
        drawn["confusion.png"] = draw_confusion(matrix, data.identities)
        if example is not None:
            drawn["example.png"] = draw_example(example, data)
    if result.pairs is not None:
        drawn |= {"roc.png": draw_roc(result.pairs), "det.png": draw_det(result.pairs)}
    if result.open_set is not None:
        tables["open_set.csv"] = _csv(*result.open_set.table())
        drawn |= {f"open_set_{each}.png": figure for each, figure in draw_open_set(result.open_set).items()}
    if result.groups:
        tables["groups.csv"] = _csv(list(asdict(result.groups[0])), (asdict(row).values() for row in result.groups))
    make_folder(folder)
    try:
        for name, figure in drawn.items():
            with replacing(folder / name) as beside:
                write_whole(beside, partial(figure.savefig, format="png", dpi=150))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror})") from error
    for name, text in tables.items():
        write_text(folder / name, text)
    return [folder / name for name in (*tables, *drawn)]


def write_page(
    path: Path,
    result: Evaluation,
    data: FaceData | None,
    found: Sequence[Example],
    *,
    model: str,
    example: Example | None = None,
) -> None:
    """Writes one HTML page that needs no other file, whole or not at all.

    Args:
        path: the file.
        result: what was measured.
        data: the faces that were identified, where there are any.
        found: what each test photo was taken for.
        model: what was measured, for the heading.
        example: one test photo to show in full.

    Raises:
        UsageError: the file cannot be written.
    """
    wrong = sorted((item for item in found if not item.is_right), key=lambda item: -item.score)
    pictures: list[tuple[str, str]] = []
    people: tuple[list[str], list[list[object]]] = ([], [])
    with matplotlib.rc_context(STYLE):
        if result.answers is not None and data is not None:
            matrix = confusion(result.answers, len(data.identities))
            pictures.append(("Confusion matrix", as_svg(draw_confusion(matrix, data.identities))))
            people = _people_table(result.answers, data)
        if result.pairs is not None:
            pictures += [("ROC", as_svg(draw_roc(result.pairs))), ("DET", as_svg(draw_det(result.pairs)))]
    if result.open_set is not None:
        pictures += open_set_pictures(result.open_set)
    page = (
        environment(Path(__file__).parent)
        .get_template("evaluation.html.j2")
        .render(
            model=model,
            rows=result.rows(),
            pictures=pictures,
            people=people,
            open_set=result.open_set.table() if result.open_set else None,
            wrong=[(item, _tiles(item, data)) for item in wrong[:SHOWN]] if data is not None else [],
            wrong_count=len(wrong),
            example=(example, _tiles(example, data)) if example is not None and data is not None else None,
        )
    )
    write_text(path, page, private=True)  # it shows faces


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Rows: who it is; columns: who it was named; shade: share of the row."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xlabel("named")
    axes.set_ylabel("is")
    if len(names) <= _LABELLED:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, label="share of the person's photos", shrink=0.8)
    return figure


def draw_roc(pairs: Pairs) -> Figure:
    """1 − FNMR against FMR, FMR on a logarithmic scale."""
    far, frr = error_rates(pairs)
    figure, axes = _axes("false match rate (FMR)", "1 − FNMR")
    axes.plot(np.maximum(far, _LEAST), 1 - frr, color=COLOURS["onnx"], drawstyle="steps-post")
    axes.set_xscale("log")
    axes.set_xlim(max(_LEAST, 0.5 / max(1, int((~pairs.same).sum()))), 1)
    axes.set_ylim(None, 1.005)
    return figure


def draw_det(pairs: Pairs) -> Figure:
    """FNMR against FMR, both on logarithmic scales; the diagonal is where they are equal."""
    far, frr = error_rates(pairs)
    figure, axes = _axes("false match rate (FMR)", "false non-match rate (FNMR)")
    both = (far > 0) & (frr > 0)
    axes.plot(far[both], frr[both], color=COLOURS["onnx"])
    least = min([0.5, *far[both].tolist(), *frr[both].tolist()])
    axes.plot([least, 1], [least, 1], color=INK, alpha=0.3, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    return figure


def draw_example(example: Example, data: FaceData) -> Figure:
    """The probe, the person it was named after and the person it shows, side by side."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    shown = (
        (example.probe, "photo"),
        (example.named, f"named {example.named_name}\nscore {example.score:.3f}"),
        (example.true, f"is {example.true_name}\n{'right' if example.is_right else 'wrong'}"),
    )
    for axes, (row, title) in zip(figure.subplots(1, 3), shown, strict=True):
        axes.imshow(data.faces[row])
        axes.set_title(title.replace("$", r"\$"), fontsize=9)
        axes.axis("off")
    return figure


def error_rates(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(FAR, FRR) from the strictest threshold to the laxest, one for each corner of the ROC."""
    from sklearn import metrics

    far, tar, _ = metrics.roc_curve(pairs.same, pairs.scores)
    return far, 1 - tar


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, 3.7), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color=INK, alpha=0.12)
    return figure, axes


def _people_table(given: Answers, data: FaceData) -> tuple[list[str], list[list[object]]]:
    columns = ["identity", "photos", "precision", "recall", "f1", "most often taken for"]
    rows = [
        [
            data.identities[row.label],
            row.photos,
            *(round(value, 4) for value in (row.precision, row.recall, row.f1)),
            "" if row.taken_for is None else data.identities[row.taken_for],
        ]
        for row in per_identity(given)
    ]
    return columns, rows


def _csv(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(spreadsheet_safe(columns))
    writer.writerows(map(spreadsheet_safe, rows))
    return text.getvalue()


def _tiles(example: Example, data: FaceData) -> list[tuple[str, str]]:
    """(data URI, caption) of the three photos."""
    captions = (example.path, f"named {example.named_name}", f"is {example.true_name}")
    rows = (example.probe, example.named, example.true)
    return [(face_uri(data.faces[row]), caption) for row, caption in zip(rows, captions, strict=True)]
