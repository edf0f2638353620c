r"""Benches the shipped files beside peers on this machine, and writes the table and the picture of docs/results.md.

    edgeface data split prepared/pins --method k -k 1
    edgeface export PEER.onnx --contract NAME --data PHOTOS --precision fp32 -o peers
    python -m reproduce.shipped_table peers/*.fp32.* --data prepared/pins

All files take turns, one thread each. Accuracy: each photo is named after the nearest of one photo a person.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np

from edgeface.data.dataset import FaceData, load_data
from edgeface.evaluation.benchmark import measure
from edgeface.report.pictures import draw_accuracy_against_latency
from edgeface_devices.figures import shown
from edgeface_devices.results import Results
from edgeface_runtime.model import shipped
from reproduce.pins_table import DOCS, PAGE, table

MARKS = ("<!-- shipped_table: begin -->\n", "<!-- shipped_table: end -->\n")
PROBES = 3000
COLUMNS = (
    "file",
    "size, MB",
    "top-1, %",
    "p50, ms",
    "p90, ms",
    "processor p50, ms",
    "cold start, ms",
    "peak, MB",
)


def rows(bench: Results) -> list[list[str]]:
    """The cells of the table, the fastest file first."""
    return [
        [
            row.path.name,
            f"{row.size_bytes / 1e6:.2f}",
            f"{100 * (row.top1 or 0):.2f}",
            f"{row.p50_ms:.2f}",
            "" if row.p90_ms is None else f"{row.p90_ms:.2f}",
            f"{row.cpu_p50_ms:.2f}",
            shown(row.cold_ms, 0),
            f"{row.peak_mb:.0f}",
        ]
        for row in sorted(bench.rows, key=lambda row: row.cpu_p50_ms.value if row.cpu_p50_ms else math.inf)
    ]


def fewer(data: FaceData) -> FaceData:
    """The gallery, and ``PROBES`` test photos evenly spaced: all pairs of many more take minutes a file."""
    test = data.rows("test")
    kept = test[np.linspace(0, len(test) - 1, min(PROBES, len(test))).astype(np.int64)]
    rows = np.sort(np.concatenate([data.rows("train", "val"), kept]))
    return replace(
        data, faces=data.faces[rows], labels=data.labels[rows], split=data.split[rows],
        paths=tuple(data.paths[row] for row in rows),
    )  # fmt: skip


def main() -> None:
    """Benches the files and writes table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", type=Path, help="files with contracts")
    parser.add_argument("--data", type=Path, required=True, help="prepared photos of strangers, split with -k 1")
    options = parser.parse_args()
    data = fewer(load_data(options.data))
    bench = measure([*(item.file for item in shipped()), *options.peers], data=data)
    with matplotlib.rc_context({"font.size": 9}):
        draw_accuracy_against_latency(bench).savefig(DOCS / "images" / "shipped.png", dpi=110)
    device = bench.device
    photos = f"{len(data.rows('test')):,} photos of {len(data.identities)} people"
    made = f"{table(COLUMNS, rows(bench))}\n{device.name}, {device.system}, one thread; {photos}.\n"
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


if __name__ == "__main__":
    main()
