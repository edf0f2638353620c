"""Exports every file of trained runs and writes the tables of docs/export-results.md.

python -m reproduce.export_table RUN [RUN ...] --data PHOTOS [--calibrator auto] [--output docs/export-results.md]

The tables of other runs, measured on the same photos and machine, stay in the page.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.cli.console import TerminalReporter
from edgeface.data.dataset import FaceData, load_data
from edgeface.deploy import ExportPhotos, balanced, export_model
from edgeface.evaluation.identification import identify
from edgeface.training.checkpoints import load_checkpoint
from edgeface_devices.bench.interleaved import local_device
from edgeface_devices.doctor import VNNI, features
from edgeface_export.options import RECIPES, ExportOptions
from edgeface_export.result import ExportedFile, ExportResult
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import load

PAGE = Path(__file__).parent.parent / "docs" / "export-results.md"
GALLERY = 10
"""Photos a person that the others are named after."""
DRAWS = 20
"""Of these photos: with one alone, two files of one net part by 0.2 points and more either way."""
COLUMNS = (
    "file", "bytes", "operators int8/float", "cosine: mean, worst 1 %", "closed set, %", "drop, points (95 %)",
    "verification, %", "drop, points (95 %)", "ms", "÷ fp32",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One run's files."""

    title: str
    export: ExportResult
    closed_set: NDArray[np.float64]
    """(test photos,) how often the source model names each of them rightly, as a share of the draws."""
    closed_sets: list[NDArray[np.float64]]
    """The same of each file."""
    seconds: float
    refused: list[str]
    """Why the gate let a precision through in neither format."""


def table_of(
    run: Path, data: FaceData, folder: Path, *, calibrator: str, formats: Sequence[str], precisions: Sequence[str]
) -> Table:
    """Exports the precisions of a run that pass the gate, and names the test photos with each file."""
    checkpoint, refused = load_checkpoint(run), list[str]()
    while True:
        start = time.perf_counter()
        options = ExportOptions(precisions=precisions, formats=formats, calibrator=calibrator)
        export = export_model(run, ExportPhotos(data=data), folder, options, reporter=TerminalReporter())
        seconds = time.perf_counter() - start
        if export.reason is None:
            break
        precision = next((name for name in precisions if f".{name}." in export.reason), None)
        if precision in (None, "fp32", "int8"):
            raise SystemExit(f"{run}: {export.reason}")
        refused.append(export.reason)
        precisions = [other for other in precisions if other != precision]
    known = closed(data)
    spec = checkpoint.contract.input
    parent = named(torch_embeddings(checkpoint.net, spec, known.faces), known)
    files = [named(load(file.path, threads=2).embed(known.faces), known) for file in export.files]
    return Table(f"{run.name}: {checkpoint.contract.backbone}", export, parent, files, seconds, refused)


def closed(data: FaceData) -> FaceData:
    """All test photos, and up to twice ``GALLERY`` photos of each person to draw from."""
    gallery = balanced(data.labels, data.rows("train", "val"), 2 * GALLERY * len(data.identities), seed=0)
    rows = np.sort(np.concatenate([gallery, data.rows("test")]))
    return replace(
        data, faces=data.faces[rows], labels=data.labels[rows], split=data.split[rows],
        paths=tuple(data.paths[row] for row in rows),
    )  # fmt: skip


def named(embeddings: NDArray[np.float32], data: FaceData) -> NDArray[np.float64]:
    """(test photos,) share of the draws of ``GALLERY`` photos a person whose nearest mean gives the right name."""
    gallery, probes = data.rows("train", "val"), data.rows("test")
    truth, right = data.labels[probes], []
    for seed in range(DRAWS):
        drawn = balanced(data.labels, gallery, GALLERY * len(data.identities), seed=seed)
        given = identify(embeddings[drawn], data.labels[drawn], embeddings[probes], truth, method="centroid")
        right.append(given.named == truth)
    shares: NDArray[np.float64] = np.mean(right, axis=0)
    return shares


def page(tables: Sequence[Table], photos: str, before: str = "") -> str:
    """The page: measured tables, and sections of other runs from the page before where its head is the same."""
    machine = local_device()
    head = f"""# Exported files, measured

Written by `python -m reproduce.export_table RUN … --data PHOTOS`.

Photos: {photos}. Machine: {machine.name}, {machine.system}.

Times are the processor time of one call in one thread, the files of a format taking turns: compare them, do not
quote them. *Closed set*: each test photo is named after the nearest mean of up to {GALLERY} gallery photos a person.
*Verification*: the gate's pairs. A positive drop is a loss against the net that was trained.
A file that the gate refuses is told; its siblings were exported for this table without it.
"""
    sections = {table.title: section(table) for table in tables}
    if before.startswith(head):
        kept = {part.split("\n")[0]: f"## {part.rstrip()}\n" for part in before.split("\n## ")[1:]}
        sections = kept | sections
    return head + "".join(f"\n{text}" for text in sections.values())


def section(table: Table) -> str:
    """One run's table, under its title."""
    files = table.export.files
    lines = [
        f"## {table.title}\n",
        f"Closed set {100 * table.closed_set.mean():.2f} % before export, the mean over {DRAWS} draws of the gallery "
        f"photos, drops with their interval over the test photos; verification on {files[0].drop.pairs:,} pairs. "
        f"All files in {table.seconds:.0f} s{dot_products(features())}.\n",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
        *(row(file, table.closed_set, found) for file, found in zip(files, table.closed_sets, strict=True)),
        "",
    ]
    for file in files:
        if file.calibrator:
            tried = ", ".join(f"{trial.method} {trial.cosine_mean:.5f}" for trial in file.trials) or "none tried"
            kept = "; ".join(
                f"`{item.layer}` {item.size_bytes:+,} bytes, {item.latency_ratio:.2f} of the time"
                for item in file.excluded
            )
            said = f"`{file.path.name}`: calibrator {file.calibrator} ({tried}); in float: {kept or 'none'}."
            lines.append(f"- {said}")
    lines += [f"- Refused by the gate: {reason}." for reason in table.refused]
    lines += [f"- {line}." for line in table.export.advice]
    return "\n".join(lines) + "\n"


def dot_products(has: set[str]) -> str:
    """What decides how fast int8 is on x86, from the flags of /proc/cpuinfo."""
    if "avx2" not in has:
        return ""
    return ", on a processor with VNNI" if has & VNNI else ", on a processor without VNNI"


def row(file: ExportedFile, parent: NDArray[np.float64], found: NDArray[np.float64]) -> str:
    """One file's cells, beside the source model's answers."""
    drop, lost = file.drop, 100 * (parent - found)
    points, width = lost.mean(), 1.96 * lost.std(ddof=1) / len(lost) ** 0.5
    cells = (
        ".".join(file.path.name.split(".")[1:]),
        f"{file.size_bytes:,}",
        f"{file.operators['int8']}/{file.operators['float']}",
        f"{file.cosine_mean:.5f}, {file.cosine_p1:.5f}",
        f"{100 * found.mean():.2f}",
        f"{points:+.3f} ({points - width:+.3f} to {points + width:+.3f})",
        f"{100 * drop.accuracy:.2f}",
        f"{drop.points:+.3f} ({drop.low:+.3f} to {drop.high:+.3f})",
        f"{file.cpu_ms:.1f}",
        f"{file.latency_ratio:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def note(line: str) -> None:
    """A line of progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Exports the runs, measures the files and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--calibrator", default=ExportOptions.calibrator)
    parser.add_argument("--format", dest="formats", action="append")
    parser.add_argument("--precision", dest="precisions", action="append")
    parser.add_argument("--models", type=Path, help="folder of the files, one below it a run [default: in the run]")
    parser.add_argument("--output", type=Path, default=PAGE)
    asked = parser.parse_args(words)
    precisions = sorted(asked.precisions or {recipe.precision for recipe in RECIPES})
    tables = []
    for run in asked.runs:
        data = load_data(asked.data, size=load_checkpoint(run).contract.input.size)
        folder = run / "models" if asked.models is None else asked.models / run.name
        formats = asked.formats or ["onnx", "tflite"]
        tables.append(table_of(run, data, folder, calibrator=asked.calibrator, formats=formats, precisions=precisions))
        photos = f"{len(data.identities)} people, {len(data.rows('test')):,} test photos"
        before = asked.output.read_text("utf-8") if asked.output.exists() else ""
        asked.output.write_text(page(tables, photos, before), "utf-8")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        note(f"{asked.output}: {run} written; peak memory {peak:.1f} GB")


if __name__ == "__main__":
    main()
