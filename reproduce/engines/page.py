"""Writes the tables of docs/engines.md from what the trials found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from reproduce.engines.files import ModelFile
from reproduce.engines.manifest import Engine
from reproduce.engines.trial import Trial

MARKS = ("<!-- engines: begin -->\n", "<!-- engines: end -->\n")
TITLES = {"onnx": "ONNX files", "tflite": "TFLite files", "ncnn": "ncnn files"}
Trials = Mapping[tuple[Engine, Path], Trial]


def cell(file: ModelFile, trial: Trial, reference: Trial | None) -> str:
    """``1.0000 =``: the least golden cosine, ``=`` for the reference's bits; bold: below the file's own bar."""
    if trial.outputs is None:
        return trial.outcome
    cosine = file.golden_cosine(trial.outputs)
    golden = file.contract.golden
    assert golden is not None, file.path
    if cosine < golden.min_cosine:
        return f"**{cosine:.4f}**"
    alike = reference is not None and reference.outputs is not None
    same = alike and np.array_equal(np.float32(trial.outputs), np.float32(reference.outputs))  # type: ignore[union-attr, arg-type]
    # Rounded down, so that 1.0000 is for what deserves it; the file's own numbers have six digits.
    return f"{np.floor((cosine + 5e-6) * 1e4) / 1e4:.4f}{' =' if same else ''}"


def tables(engines: Sequence[Engine], files: Sequence[ModelFile], trials: Trials) -> str:
    """A table for each format: a row for each run of versions that answer alike."""
    parts = []
    for kind, title in TITLES.items():
        columns = [file for file in files if file.format == kind]
        readers = [engine for engine in engines if kind in engine.reads]
        if not columns or not readers:
            continue
        (reference,) = [engine for engine in readers if engine.is_reference]

        def cells(engine: Engine, columns: list[ModelFile] = columns, reference: Engine = reference) -> list[str]:
            return [cell(file, trials[engine, file.path], trials.get((reference, file.path))) for file in columns]

        rows = []
        for (name, found, mind), group in groupby(readers, key=lambda each: (each.name, cells(each), each.mind)):
            versions = [each.version for each in group]
            span = versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]} ({len(versions)} tried)"
            rows.append([name, span, *found, mind])
        heads = ["engine", "version", *(label(file) for file in columns), "to mind"]
        lines = [heads, ["---"] * len(heads), *rows]
        parts.append(f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
        parts.append(f"\n`=`: the same bits as {reference.name} {reference.version}.\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def label(file: ModelFile) -> str:
    """``mobilefacenet int8``."""
    name, precision = file.path.name.split(".")[:2]
    return f"{name} {precision}"


def rewrite(page: Path, made: str) -> None:
    """Puts the tables between the page's marks."""
    before, rest = page.read_text("utf-8").split(MARKS[0])
    page.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")
