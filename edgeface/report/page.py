"""``report.html``: one file to send to anybody, with nothing to fetch from anywhere."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.report import curves as training
from edgeface.report import pictures
from edgeface.templates import environment
from edgeface_devices.measurement import FORMAT_NAMES, Measurement, names
from edgeface_devices.results import Ratio, Results
from edgeface_runtime.files import write_text

if TYPE_CHECKING:
    from edgeface.data.dataset import FaceData
    from edgeface.training.schedule import Epoch
    from edgeface_export.result import ExportedFile


@dataclass(frozen=True)
class PhotoCounts:
    """Which photos the accuracy belongs to."""

    name: str
    identities: int
    gallery: int
    """Photos with known names."""
    held_out: int
    """Photos that were named and compared."""
    credit: str = ""

    @classmethod
    def of(cls, data: FaceData, name: str, *, credit: str = "") -> PhotoCounts:
        """The counts of ``data`` as ``measure`` uses it."""
        return cls(name, len(data.identities), len(data.rows("train", "val")), len(data.rows("test")), credit)


def write_report(
    path: Path,
    bench: Results,
    *,
    title: str = "Face recognition on the device",
    photos: PhotoCounts | None = None,
    curves: Sequence[Epoch] = (),
    parity: Sequence[ExportedFile] = (),
    parity_photos: int = 0,
) -> None:
    """Writes the report, whole or not at all.

    Args:
        path: the HTML file.
        bench: the measured rows.
        title: heading of the page.
        photos: what ``top1`` and ``auc`` of the rows were measured on.
        curves: the epochs of the training run.
        parity: the exported files against the trained net.
        parity_photos: how many photos ``parity`` was measured on.

    Raises:
        UsageError: the file cannot be written.
    """
    templates = environment(Path(__file__).parent)
    templates.filters |= {"megabytes": megabytes, "percent": percent, "points": points, "speed": speed}
    has_accuracy = all(row.top1 is not None for row in bench.rows)
    draw = pictures.accuracy_against_latency if has_accuracy else pictures.latency_bars
    page = templates.get_template("report.html.j2").render(
        title=title,
        bench=bench,
        names=names(bench.rows),
        best=fastest(bench),
        has_accuracy=has_accuracy,
        picture=draw(bench),
        curves=training.training_curves(curves) if curves else None,
        photos=photos,
        parity=parity,
        parity_photos=parity_photos,
        formats=FORMAT_NAMES,
        licences=sorted({row.contract.licence for row in bench.rows if row.contract} - {"unknown"}),
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=importlib.metadata.version("edgeface"),
        numpy=importlib.metadata.version("numpy"),
    )
    write_text(path, page)


@dataclass(frozen=True)
class Best:
    """The row that the headline is about, and its ratio to the fp32 file of its format, where there is one."""

    row: Measurement
    ratio: Ratio | None
    against: Measurement | None


def fastest(bench: Results) -> Best:
    """The file with the lowest median latency; among the quantized ones where there are any."""
    quantized = [row for row in bench.rows if row.precision != "fp32"]
    row = min(quantized or bench.rows, key=lambda row: row.median_ms)
    peers = {other.path: other for other in bench.rows if other.format == row.format}
    ratio = next((ratio for ratio in bench.ratios if ratio.a == row.path and ratio.b in peers), None)
    return Best(row, ratio, peers[ratio.b] if ratio else None)


def speed(ratio: float) -> str:
    """A latency ratio in words: 0.5 is ``2.0 times as fast as``."""
    if ratio <= 1:
        return f"{1 / ratio:.1f} times as fast as"
    return f"{ratio:.1f} times as slow as"


def megabytes(size_bytes: int) -> str:
    """Bytes as ``1.15 MB`` (10⁶ bytes)."""
    return f"{size_bytes / 1e6:.2f} MB"


def percent(share: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 as ``99.2 %``; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of shares as ``−0.8 points``."""
    return f"{100 * difference:+.1f} points".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")
