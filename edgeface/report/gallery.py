"""The page of ``edgeface gallery check --report``."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edgeface.report.pictures import COLOURS, INK, STYLE, as_svg, face_uri
from edgeface.templates import environment
from edgeface_runtime import GalleryCheck, GalleryFinding, Look, Photo, UnknownCheck
from edgeface_runtime.files import write_text

_FACES = 8
"""Of one person in a finding, at most."""
_COMPARED = 4
"""Of the person's other photos."""

Faces = list[tuple[str, list[tuple[str, str]]]]
"""Rows of a finding: a title, and a data URI and a caption for each face."""


def write_page(
    path: Path,
    gallery: str,
    found: GalleryCheck,
    unknown: UnknownCheck | None,
    photos: Sequence[Photo],
    looks: Mapping[int, Look],
) -> None:
    """Writes one HTML page that needs no other file, whole or not at all.

    Args:
        path: the file.
        gallery: its name, for the heading.
        found: what was found.
        unknown: what unenrolled people score, where they were asked about.
        photos: all that are enrolled.
        looks: those that were looked at again, whose faces are shown with the findings.

    Raises:
        UsageError: the file cannot be written.
    """
    by_id = {photo.id: photo for photo in photos}
    findings = [(row, _faces(row, by_id, looks)) for row in found.findings]
    with matplotlib.rc_context(STYLE):
        picture = as_svg(draw_scores(found.own, found.others, found.threshold.value))
    page = (
        environment(Path(__file__).parent)
        .get_template("gallery.html.j2")
        .render(
            gallery=gallery,
            found=found,
            mistakes=[item for item in findings if item[0].is_fault],
            advice=[item for item in findings if not item[0].is_fault],
            unknown=unknown,
            photos=len(photos),
            picture=picture,
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            version=importlib.metadata.version("edgeface"),
        )
    )
    write_text(path, page, private=True)  # it shows faces


def draw_scores(own: NDArray[np.float32], others: NDArray[np.float32], threshold: float) -> Figure:
    """How the photos' best scores with the same person and with somebody else are distributed."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(-0.2, 1, 49).tolist()
    for scores, label, colour in (
        (others, "nearest other person", COLOURS["tflite"]),
        (own, "nearest photo of the same person", COLOURS["onnx"]),
    ):
        axes.hist(np.clip(scores[np.isfinite(scores)], -0.2, 1), bins, color=colour, alpha=0.65, label=label)
    axes.axvline(threshold, color=INK, linewidth=1)
    axes.annotate(
        f"threshold {threshold:.2f}",
        (threshold, 1),
        (4, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=9,
    )
    axes.set_xlabel("score (cosine)")
    axes.set_ylabel("photos")
    figure.legend(loc="outside upper left", frameon=False, ncols=1, fontsize=9)
    return figure


def _faces(finding: GalleryFinding, photos: Mapping[int, Photo], looks: Mapping[int, Look]) -> Faces:
    """The faces that a finding speaks of, and beside them others of the people whom it names."""
    rows: Faces = []
    for name in filter(None, (finding.name, finding.other)):
        seen = [number for number, photo in photos.items() if photo.name == name and number in looks]
        meant = [number for number in finding.photos if number in seen]
        others = [number for number in seen if number not in finding.photos]
        for title, numbers in (
            (name, meant[:_FACES]),
            (f"{'other ' if meant else ''}photos of {name}", others[:_COMPARED]),
        ):
            tiles = [(face_uri(looks[number].crop), f"{number}: {photos[number].source}") for number in numbers]
            rows += [(title, tiles)] if tiles else []
    return rows
