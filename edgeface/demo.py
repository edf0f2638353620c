"""The demo: 400 photos of 40 people to a trained net, four model files and a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgeface.data.att import LICENCE, att_folder
from edgeface.data.dataset import load_data
from edgeface.deploy import ExportPhotos, export_model
from edgeface.evaluation.benchmark import measure
from edgeface.progress import SILENT, Reporter
from edgeface.report.curves import draw_curves
from edgeface.report.page import PhotoCounts, write_report
from edgeface.training.config import load_config
from edgeface.training.loop import train
from edgeface_runtime import EdgefaceError, UsageError
from edgeface_runtime.files import is_unused, write_text
from edgeface_runtime.integrity import inspect_file

MARKER = "demo.json"


def run_demo(folder: Path, *, epochs: int, reporter: Reporter = SILENT) -> dict[str, object]:
    """Writes ``report.html``, ``bench.json``, ``models/`` and ``run/`` into the folder, afresh each time.

    Returns:
        What was made: the report's path, the files, the bench document; no report, and the reason, when
        the files did not pass the gate.

    Raises:
        UsageError: the folder exists and is no demo's.
        EdgefaceError: a file does not hold what its contract says.
    """

    config = load_config(epochs=epochs)
    photos = load_data(att_folder(), pattern="*.pgm")
    if folder.exists() and not _is_ours(folder) and (not folder.is_dir() or not is_unused(folder)):
        raise UsageError(f"{folder}: exists and was not made by edgeface demo; name another with --output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / MARKER, json.dumps({"edgeface": "demo", "epochs": epochs}) + "\n")

    seen = f"{len(photos.rows('train'))} photos of {len(photos.identities)} people"
    reporter.say(f"1/4 training MobileFaceNet on {seen}", heading=True)
    curves = train(photos, folder / "run", config, reporter=reporter, licence=LICENCE)
    draw_curves(curves, folder / "run" / "curves.png")

    reporter.say("2/4 exporting fp32 and int8 as ONNX and TFLite", heading=True)
    exported = export_model(folder / "run", ExportPhotos(data=photos), folder / "models", reporter=reporter)
    if not exported.passed:
        return {"schema": 1, "report": None, "models": [], "reason": f"the export gate failed: {exported.reason}"}

    reporter.say("3/4 checking the contracts and golden vectors", heading=True)
    files = [file.path for file in exported.files]
    for found in map(inspect_file, files):
        if not found.ok:
            raise EdgefaceError(f"{found.path}: {found.reason}")

    reporter.say("4/4 measuring each file in a process of its own, one thread", heading=True)
    bench = measure(files, data=photos, progress=lambda rounds: reporter.track(rounds, "bench"))
    document = bench.to_json()
    write_text(folder / "bench.json", json.dumps(document, indent=2) + "\n")
    write_report(
        folder / "report.html",
        bench,
        title="Forty people, one small model",
        photos=PhotoCounts.of(photos, "AT&T faces", credit="AT&T Laboratories Cambridge"),
        curves=curves,
        parity=exported.files,
        parity_photos=len(photos.rows("test")),
    )
    return {
        "schema": 1,
        "report": str(folder / "report.html"),
        "models": [str(file) for file in files],
        "bench": document,
    }


def _is_ours(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MARKER).read_text("utf-8"))["edgeface"] == "demo")
    except (OSError, ValueError, KeyError, TypeError):
        return False
