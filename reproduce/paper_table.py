r"""The paper's table by its own protocol: its recipe beside ours, with what a device pays for each (docs/results.md).

    edgeface data prepare PINS prepared/pins --licence research-use
    python -m reproduce.paper_table prepared/pins -o WORK
    python -m reproduce.paper_table prepared/pins -o WORK --rows paper-mobilefacenet
    python -m reproduce.paper_table prepared/pins -o WORK --write-only

Draws 2,500 of the prepared photos with a seed, splits them as the paper does (10 % test; of the others 12 %
validate), trains each row, names the test photos, exports fp32 and int8 TFLite, times all files in turns, one thread
each, and writes the page. What is in WORK is not made again, and a run that was stopped goes on. A cell of the page
is empty until its row was run.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeface.cli import run
from edgeface.data.table import COLUMNS as FACE_COLUMNS
from edgeface.data.table import read_card, read_faces, write_card, write_table
from edgeface.evaluation.pipeline import Plan, evaluate_model
from edgeface.training.checkpoints import load_checkpoint
from edgeface_devices.bench.interleaved import bench
from edgeface_runtime import read_contract
from reproduce.pins_table import FIGURES, PAGE, table

MARKS = ("<!-- paper_table: begin -->\n", "<!-- paper_table: end -->\n")
PHOTOS = 2500
"""Of the paper, which says that they were curated, not which."""


class Row(NamedTuple):
    """A line of the table: its name, what ``edgeface`` is told before and after the photos, and who names them."""

    name: str
    verb: str
    more: str
    method: str = "centroid"


_OURS = "--set progressive_size=64 --set margin_warmup_ratio=1.0"
ROWS = (
    Row("paper-mobilefacenet", "train", "--config paper --backbone mobilefacenet"),
    Row("paper-resnet18", "train", "--config paper --backbone resnet18"),
    Row("paper-vgg16", "train", "--config paper --backbone vgg16 --init imagenet --set lr=1e-2", "svc"),
    Row("mobilefacenet", "train", f"--backbone mobilefacenet --epochs 40 {_OURS}"),
    Row("resnet18", "train", f"--backbone resnet18 --epochs 40 --set mixed_precision=bf16 {_OURS}"),
    Row("vgg11", "train", f"--backbone vgg11 --epochs 30 --set mixed_precision=bf16 --set lr=1e-3 {_OURS}", "svc"),
    Row("adapted", "adapt", ""),
)
"""``paper-…`` as far as the paper says how; ``adapted`` starts from the shipped mobilefacenet, others from nothing."""
REPORTED = (
    ("MobileFaceNet + ArcFace, the paper's figures", "3.90", "3.94", "62.40"),
    ("ResNet18 + ArcFace, the paper's figures", "0.0004", "", ""),
    ("VGG embeddings + PCA + SVC, the paper's figures", "", "", "95.32"),
)
COLUMNS = (
    "net",
    "training loss",
    "validation loss",
    *(f"{word}, %" for word in FIGURES),
    "fp32 / int8, MB",
    "fp32 / int8, ms",
    "parameters, M",
    "MACs, M",
    "processor minutes",
)
PRECISIONS = ("fp32", "int8")
_WORDS = {"train": "photos to train on", "val": "to validate", "test": "to name"}


def draw(photos: Path, work: Path, seed: int) -> Path:
    """A prepared folder with ``PHOTOS`` of the faces, drawn and split; its crops are links."""
    drawn = work / f"faces-{seed}"
    if (drawn / ".drawn").exists():
        return drawn
    rows = [row for row in read_faces(photos) if row["identity"] and not row["duplicate_of"]]
    if len(rows) < PHOTOS:
        raise SystemExit(f"{photos}: {len(rows)} faces that are no near duplicates, fewer than {PHOTOS}")
    kept = np.sort(np.random.default_rng(seed).choice(len(rows), PHOTOS, replace=False))
    chosen = [rows[index] for index in kept]
    drawn.mkdir(parents=True, exist_ok=True)
    for top in {Path(row["path"]).parts[0] for row in chosen}:
        if not (drawn / top).is_symlink():
            (drawn / top).symlink_to((photos / top).resolve())
    card = read_card(photos)
    card["counts"] |= {"faces": PHOTOS, "identities": len({row["identity"] for row in chosen})}
    card["faces_sha256"] = write_table(drawn / "faces.csv", FACE_COLUMNS, chosen, drawn)
    write_card(drawn, card, drawn)
    if run(["data", "split", str(drawn), "--protocol", "paper", "--seed", str(seed)]):
        raise SystemExit(1)
    (drawn / ".drawn").touch()
    return drawn


def command(row: Row, faces: Path, work: Path) -> list[str]:
    """``edgeface``'s words for a row."""
    words = [row.verb, str(faces), *row.more.split(), "--licence", "research-use"]
    return [*words, "-o", str(work / "runs" / row.name)]


def train(row: Row, faces: Path, work: Path) -> bool:
    """Trains, exports and measures a row; False where a command refused."""
    record, folder = work / f"{row.name}.json", work / "runs" / row.name
    if record.exists():
        return True
    spent, started = work / f"{row.name}.seconds", time.process_time()
    print("edgeface", *command(row, faces, work), flush=True)
    code = run([*command(row, faces, work), "--resume"])
    before = float(spent.read_text()) if spent.exists() else 0.0
    spent.write_text(f"{before + time.process_time() - started:.0f}")  # of all calls, should one have been stopped
    if code not in ((0, 1) if row.verb == "adapt" else (0,)):  # 1: adapted, and no better
        return False
    # By int8 a net of few photos may lose more than the gate allows; the page shows the fp32 net's figures.
    words = [
        "export",
        str(folder),
        "--data",
        str(faces),
        "--format",
        "tflite",
        "--max-drop",
        "100",
        "--min-cosine",
        "-1",
    ]
    words += [word for precision in PRECISIONS for word in ("--precision", precision)]
    if run([*words, "-o", str(work / "files" / row.name)]):
        return False
    figures = evaluate_model(folder, Plan(data=faces, method=row.method)).evaluation.identification
    assert figures is not None
    with next(iter(folder.rglob("curves.csv"))).open(newline="") as file:
        last = [*csv.DictReader(file)][-1]
    found: dict[str, Any] = {word: getattr(figures, word) for word in FIGURES}
    found |= {key: float(last[key]) for key in ("train_loss", "val_loss")} | {"seconds": float(spent.read_text())}
    found["parameters"] = sum(weight.numel() for weight in load_checkpoint(folder).net.parameters())
    record.write_text(json.dumps(found))
    print(row.name, *(f"{word} {100 * found[word]:.2f}" for word in FIGURES), flush=True)
    return True


def cells(row: Row, work: Path, times: dict[Path, float]) -> list[str]:
    """The row of the page; empty where it was not run."""
    title = row.name + (" + PCA + SVC" if row.method == "svc" else "")
    if not (work / f"{row.name}.json").exists():
        return [title, *[""] * (len(COLUMNS) - 1)]
    found = json.loads((work / f"{row.name}.json").read_text())
    files = [next(iter((work / "files" / row.name).glob(f"*.{precision}.tflite"))) for precision in PRECISIONS]
    macs = sum(cost.macs for cost in read_contract(files[0]).cost.values())
    return [
        title,
        f"{found['train_loss']:.2f}",
        f"{found['val_loss']:.2f}",
        *(f"{100 * found[word]:.2f}" for word in FIGURES),
        " / ".join(f"{file.stat().st_size / 1e6:.2f}" for file in files),
        " / ".join(f"{times[file]:.2f}" for file in files if file in times),
        f"{found['parameters'] / 1e6:.2f}",
        f"{macs / 1e6:.0f}",
        f"{found['seconds'] / 60:.0f}",
    ]


def write(work: Path, faces: Path) -> None:
    """Times the files and replaces what stands between the marks of the page."""
    files = sorted((work / "files").glob("*/*.tflite")) if (work / "files").exists() else []
    results = bench(files) if files else None
    times = {row.path: row.cpu_p50_ms.value for row in results.rows if row.cpu_p50_ms} if results else {}
    blank = [""] * (len(COLUMNS) - 4)
    reported = [[name, loss, held_out, accuracy, *blank] for name, loss, held_out, accuracy in REPORTED]
    splits = [row["split"] for row in read_faces(faces)]
    counts = ", ".join(f"{splits.count(name):,} {word}" for name, word in _WORDS.items())
    machine = f" Times: {results.device.name}, one thread, processor time." if results else ""
    made = table(COLUMNS, [*reported, *(cells(row, work, times) for row in ROWS)]) + f"\n{counts}.{machine}\n"
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


def main(given: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="Pins, prepared")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for photos, runs and files")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="these alone")
    parser.add_argument("--seed", type=int, default=0, help="of the photos")
    parser.add_argument("--write-only", action="store_true", help="train nothing")
    options = parser.parse_args(given)
    faces, work = draw(options.photos, options.output, options.seed), options.output
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    refused = [] if options.write_only else [row.name for row in rows if not train(row, faces, work)]
    write(work, faces)
    if refused:
        print("left out:", ", ".join(refused))
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
