"""``data inspect``: one HTML page that shows what a prepared folder holds and what looks wrong in it."""

from __future__ import annotations

import base64
import io
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeface.data.cache import open_cache
from edgeface.data.table import Card, read_card, read_faces, read_rejected, write_beside
from edgeface_runtime.errors import MissingExtraError, UsageError
from edgeface_runtime.images import open_rgb, shown

if TYPE_CHECKING:
    from jinja2 import Template

SHEET = 48
"""Faces on a contact sheet."""
PEOPLE = 210
"""Identities on the sheet of people."""
_CHUNK = 4096

F = TypeVar("F", np.float32, np.float64)
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Suspect:
    """A face that is nearer to another identity's centre than to its own."""

    row: int
    own: float
    """Cosine to the centre of the other faces of its identity."""
    nearest: int
    """Label of the nearest other identity."""
    other: float
    """Cosine to that identity's centre."""


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram."""

    label: str
    count: int


@dataclass(frozen=True)
class Tile:
    """One face on a sheet."""

    picture: str
    """As a data URI."""
    caption: str
    title: str
    """Shown on hover."""
    identity: str


def inspect(
    folder: str | Path, page: str | Path, *, embed: Embed | None = None, size: int = 112, seed: int = 0
) -> dict[str, object]:
    """Writes the page of a prepared folder.

    Args:
        folder: the prepared folder.
        page: the HTML file to write; it needs no other file.
        embed: (N, size, size, 3) uint8 RGB → (N, D) unit embeddings; with it, label errors are suspected.
        size: side of the crops in pixels; used with ``embed``.
        seed: draws the faces on the sheet of people.

    Returns:
        What ``--json`` prints: counts, quantiles, suspects.

    Raises:
        UsageError: the folder was not prepared or holds no face, or the page cannot be written.
        MissingExtraError: Jinja2 is not installed.
    """
    folder, page = Path(folder), Path(page)
    template = _template()
    rows, card, rejected = read_faces(folder, measured=True), read_card(folder), read_rejected(folder)
    if not rows:
        raise UsageError(f"{shown(folder)}: holds no face; see its rejected.csv")
    # Not the column: a table that was edited may skip numbers, and the centers would be as many as the highest.
    identities, labels = np.unique([row["identity"] for row in rows], return_inverse=True)
    found = None if embed is None else suspects(_embeddings(embed, open_cache(folder, size)), labels)
    summary = _summary(card, rows, found, identities.tolist())
    first = {row["identity"]: row for row in reversed(rows)}
    html = template.render(
        card=card,
        summary=summary,
        per_identity=sorted(Counter(row["identity"] for row in rows).items(), key=lambda item: (-item[1], item[0])),
        histograms=_histograms(rows),
        rejected=_by_reason(rejected),
        suspects=None
        if found is None
        else [
            (
                _tile(folder, rows[suspect.row], f"{suspect.own:.2f} to its own"),
                _tile(folder, first[identities[suspect.nearest]], f"{suspect.other:.2f} to this one"),
            )
            for suspect in found[:SHEET]
        ],
        across=_across(folder, rows),
        sheets=_sheets(folder, rows, seed),
    )
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_beside(page, html.encode("utf-8"), page.parent)
    except OSError as error:
        raise UsageError(f"{shown(page)}: cannot write: {error.strerror}") from error
    return summary


def suspects(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Suspect]:
    """Faces nearer to another identity's centre than to their own, the worst first.

    A face's own centre is the mean of its identity's other faces, so that it cannot vouch for
    itself; identities of one face are passed over.

    Args:
        embeddings: (N, D) unit rows.
        labels: (N,) identity of each row, 0 to K − 1.
    """
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), embeddings.shape[1]), np.float64)
    np.add.at(sums, labels, embeddings)
    centres = _unit(sums).astype(np.float32)
    found = []
    for start in range(0, len(embeddings), _CHUNK):
        rows, own_labels = embeddings[start : start + _CHUNK], labels[start : start + _CHUNK]
        own = (rows * _unit(sums[own_labels] - rows)).sum(axis=1)
        scores = rows @ centres.T
        scores[np.arange(len(rows)), own_labels] = -np.inf
        nearest = scores.argmax(axis=1)
        other = scores.max(axis=1)
        found += [
            Suspect(start + int(row), float(own[row]), int(nearest[row]), float(other[row]))
            for row in np.flatnonzero((other > own) & (counts[own_labels] > 1))
        ]
    return sorted(found, key=lambda suspect: suspect.own - suspect.other)


def histogram(values: Sequence[float], *, bins: int = 24) -> list[Bar]:
    """Counts of values in bins of one width, a round number; the highest 1 % share the last bin."""
    array = np.asarray(values, np.float64)
    low, high = float(array.min()), float(np.quantile(array, 0.99))
    width = _round_width((high - low) / bins)
    start = math.floor(low / width)
    places = np.floor(np.minimum(array, max(high, low)) / width).astype(int) - start
    counts = np.bincount(places)
    labels = [f"{(start + place) * width:g} to {(start + place + 1) * width:g}" for place in range(len(counts))]
    if float(array.max()) > (start + len(counts)) * width:
        labels[-1] = f"{(start + len(counts) - 1) * width:g} and more"
    return [Bar(label, int(count)) for label, count in zip(labels, counts, strict=True)]


def _round_width(width: float) -> float:
    """The next 1, 2 or 5 times a power of ten; never below 0.01."""
    power = 10.0 ** math.floor(math.log10(max(width, 0.01)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= max(width, 0.01) * (1 - 1e-9))


def _embeddings(embed: Embed, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    parts = [embed(np.asarray(faces[start : start + _CHUNK])) for start in range(0, len(faces), _CHUNK)]
    return _unit(np.concatenate(parts))


def _unit(rows: NDArray[F]) -> NDArray[F]:
    unit: NDArray[F] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _summary(
    card: Card, rows: list[dict[str, str]], found: list[Suspect] | None, identities: list[str]
) -> dict[str, object]:
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("size", "sharpness", "score", "yaw")}
    per_identity = list(Counter(row["identity"] for row in rows).values())
    return {
        "schema": 1,
        "name": card["name"],
        "counts": card["counts"],
        "rejected": card["rejected"],
        "split": dict(sorted(Counter(row["split"] or "none" for row in rows).items())),
        "photos_per_identity": {
            "min": min(per_identity),
            "median": float(np.median(per_identity)),
            "max": max(per_identity),
        },
        "quantiles": {
            name: {f"{q:g}": round(float(np.quantile(values, q)), 2) for q in (0.01, 0.1, 0.5, 0.9, 0.99)}
            for name, values in columns.items()
        },
        "suspects": None
        if found is None
        else [
            {
                "path": rows[suspect.row]["path"],
                "source": rows[suspect.row]["source"],
                "identity": rows[suspect.row]["identity"],
                "cosine": round(suspect.own, 3),
                "nearer_to": identities[suspect.nearest],
                "nearer_cosine": round(suspect.other, 3),
            }
            for suspect in found
        ],
    }


def _histograms(rows: list[dict[str, str]]) -> list[tuple[str, str, list[Bar]]]:
    """Title, unit and bars of each."""
    counts = list(Counter(row["identity"] for row in rows).values())
    return [
        ("Faces per identity", "faces", histogram(counts)),
        ("Face size in the photo", "pixels", histogram([float(row["size"]) for row in rows])),
        ("Sharpness", "percent, fine detail for coarse", histogram([float(row["sharpness"]) for row in rows])),
        ("Turn of the head", "degrees of yaw", histogram([abs(float(row["yaw"])) for row in rows])),
    ]


def _by_reason(rejected: list[dict[str, str]]) -> list[tuple[str, int, list[dict[str, str]]]]:
    """Reason, how many, the first of them."""
    counts = Counter(row["reason"] for row in rejected)
    return [
        (reason, count, [row for row in rejected if row["reason"] == reason][:SHEET])
        for reason, count in counts.most_common()
    ]


def _across(folder: Path, rows: list[dict[str, str]]) -> list[tuple[Tile, Tile]]:
    """Copies of one photo under two names, beside their first copy."""
    by_path = {row["path"]: row for row in rows}
    pairs = [(row, by_path[row["duplicate_of"]]) for row in rows if row["duplicate_of"] in by_path]
    named_twice = [(row, first) for row, first in pairs if row["identity"] != first["identity"]]
    return [(_tile(folder, row, ""), _tile(folder, first, "")) for row, first in named_twice[:SHEET]]


def _sheets(folder: Path, rows: list[dict[str, str]], seed: int) -> list[tuple[str, str, list[Tile]]]:
    """Title, explanation and faces of each contact sheet."""
    order = random.Random(seed).sample(rows, len(rows))
    people = sorted({row["identity"]: row for row in order}.values(), key=lambda row: row["identity"])
    by_path = {row["path"]: row for row in rows}
    copies = [row for row in rows if row["duplicate_of"] in by_path][: SHEET // 2]
    pairs = [row for copy in copies for row in (by_path[copy["duplicate_of"]], copy)]

    def least(column: str, sign: float = 1.0) -> list[dict[str, str]]:
        return sorted(rows, key=lambda row: sign * abs(float(row[column])))[:SHEET]

    chosen = [
        ("People", "One face of each identity, drawn at random.", people[:PEOPLE], None),
        ("Least sharp", "Fine detail for coarse, in percent.", least("sharpness"), "sharpness"),
        ("Smallest", "Side in pixels of the photo below each.", least("size"), "size"),
        ("Least certain", "The detector's score below each.", least("score"), "score"),
        ("Most turned", "Degrees of yaw below each.", least("yaw", -1.0), "yaw"),
        ("Copies", "Each photo's first copy, then the copy.", pairs, None),
    ]
    return [
        (title, text, [_tile(folder, row, row[column] if column else "") for row in sheet])
        for title, text, sheet, column in chosen
        if sheet
    ]


def _tile(folder: Path, row: dict[str, str], caption: str) -> Tile:
    file = io.BytesIO()
    Image.fromarray(open_rgb(folder / row["path"])).save(file, "JPEG", quality=82)
    picture = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    title = f"{row['source']} · sharpness {row['sharpness']} · {row['size']} px · score {row['score']}"
    return Tile(picture, caption, title, row["identity"])


def _template() -> Template:
    try:
        from edgeface.templates import environment
    except ImportError as error:
        raise MissingExtraError("Jinja2", "report") from error
    return environment(Path(__file__).parent).get_template("inspect.html.j2")
