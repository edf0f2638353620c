r"""Trains nets, attention, heads and more by one command on the same photos: the table of variants in docs/results.md.

    python -m reproduce.variants PHOTOS -o WORK
    python -m reproduce.variants PHOTOS -o WORK --rows mobilefacenet-tiny cosface --seeds 1
    python -m reproduce.variants PHOTOS -o WORK --write-only

PHOTOS holds aligned crops, ``<identity>/<photo>``. Every fourth person is kept apart; of the others some photos are
held out, as ``edgeface train`` splits a plain folder. Each row is trained once a seed, seed by seed, then its first
seed is exported as int8 TFLite; at the end all files are timed in turns, one thread each, and the page is written.
What is in WORK is not made again, and a run that was stopped goes on. A row whose option this edgeface lacks is said
and left out.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeface.cli import run
from edgeface.data.dataset import load_data
from edgeface.evaluation import evaluate
from edgeface.evaluation.opening import open_embedder
from edgeface.evaluation.tails import all_against_all, tar_at_far
from edgeface.training.checkpoints import load_checkpoint
from edgeface_devices.bench.interleaved import bench
from edgeface_runtime import read_contract
from reproduce.pins_table import PAGE, table

MARKS = ("<!-- variants: begin -->\n", "<!-- variants: end -->\n")
COMMAND = (
    "--epochs 12 --set lr=3e-3 --set batch_size=48 --set progressive_size=64 --set progressive_ratio=0.8 "
    "--licence research-use"
)
"""What all rows have in common."""


class Row(NamedTuple):
    """A line of the table: what it is about, its name, and what ``edgeface train`` is told beside ``COMMAND``."""

    topic: str
    name: str
    backbone: str = "mobilefacenet-tiny"
    head: str = "arcface"
    more: str = ""
    members: tuple[str, ...] = ()
    """Rows whose int8 files make an ensemble, which is not trained itself."""


ROWS = (
    Row("", "mobilefacenet-tiny"),
    Row("net", "mobilefacenet", "mobilefacenet"),
    Row("net", "resnet18", "resnet18", more="--set mixed_precision=bf16"),
    Row("net", "mobilenetv4-small", "timm:mobilenetv4_conv_small"),
    Row("attention", "se", "mobilefacenet-tiny:attention=se"),
    Row("attention", "eca", "mobilefacenet-tiny:attention=eca"),
    Row("attention", "cbam", "mobilefacenet-tiny:attention=cbam"),
    Row("head", "softmax", head="softmax"),
    Row("head", "cosface", head="cosface"),
    Row("head", "adaface", head="adaface"),
    Row("head", "arcface-learned", head="arcface-learned"),
    Row("head", "arcface-subcenter", head="arcface-subcenter"),
    Row("head", "magface", head="magface"),
    Row("training", "adversarial-fgsm", more="--set adversarial=fgsm"),
    Row("training", "adversarial-pgd", more="--set adversarial=pgd"),
    Row("ensemble", "tiny-and-eca", members=("mobilefacenet-tiny", "eca")),
    Row("ensemble", "tiny-and-cosface", members=("mobilefacenet-tiny", "cosface")),
)
FAR = 0.01
APART = 4
"""Every so-many-th person is trained on by no row."""
COLUMNS = (
    "topic",
    "variant",
    "right names, %",
    f"TAR at FMR {FAR:g}, %",
    "of the int8 file, %",
    "int8, MB",
    "int8, ms",
    "parameters, M",
    "MACs, M",
)


def split(photos: Path, work: Path) -> tuple[Path, Path]:
    """(Folder of the people who are trained on, folder of those who are not), links to ``photos``."""
    people = sorted(path for path in photos.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(people) < 2 * APART:
        raise SystemExit(f"{photos}: needs folders of {2 * APART} people at the least")
    for number, person in enumerate(people):
        link = work / ("people" if number % APART else "others") / person.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(person.resolve())
    return work / "people", work / "others"


def command(row: Row, seed: int, people: Path, work: Path) -> list[str]:
    """``edgeface``'s words for one run of a row."""
    words = ["train", str(people), "--backbone", row.backbone, "--head", row.head, *COMMAND.split(), *row.more.split()]
    return [*words, "--set", f"seed={seed}", "-o", str(folder(row, seed, work))]


def folder(row: Row, seed: int, work: Path) -> Path:
    """The run folder."""
    return work / "runs" / f"{row.name}-{seed}"


def int8_file(row: Row, work: Path) -> Path | None:
    """The file that is timed, once it is there."""
    return next(
        iter(sorted((work / "files" / row.name).glob("*.int8.tflite" if not row.members else "*.ensemble"))), None
    )


def measure(model: Path, people: Path, others: Path) -> dict[str, float | None]:
    """Held-out photos of the people trained on that get their name, and the other people's genuine pairs accepted."""
    embedder = open_embedder(model)
    known, strangers = (load_data(at, size=embedder.contract.input.size) for at in (people, others))
    found = evaluate(embedder.embed(known.faces), known)
    assert found.identification is not None
    tails = all_against_all(embedder.embed(strangers.faces), strangers.labels)
    return {"names": found.identification.accuracy, "tar": tar_at_far(tails, FAR).value}


def train(row: Row, seed: int, people: Path, others: Path, work: Path) -> bool:
    """Trains and measures one run; False where this edgeface cannot."""
    record = work / f"{row.name}-{seed}.json"
    if record.exists():
        return True
    words = command(row, seed, people, work)
    print("edgeface", *words, flush=True)
    if run([*words, "--resume"]):
        return False
    found = measure(folder(row, seed, work), people, others)
    net = load_checkpoint(folder(row, seed, work)).net
    record.write_text(json.dumps(found | {"parameters": sum(weight.numel() for weight in net.parameters())}))
    print(row.name, seed, found, flush=True)
    return True


def export(row: Row, seed: int, people: Path, others: Path, work: Path) -> bool:
    """Makes and measures the row's int8 file; False where that fails."""
    record, to = work / f"{row.name}-int8.json", work / "files" / row.name
    if record.exists():
        return True
    # Nets that saw so few photos may lose more than the gate of a good one allows; the table shows what they lose.
    words = ["export", str(folder(row, seed, work)), "--data", str(people), "--int8", "--format", "tflite"]
    words += ["--max-drop", "100", "--min-cosine", "-1", "-o", str(to)]
    if row.members:
        rows = {each.name: each for each in ROWS}
        files = [str(file) for name in row.members if (file := int8_file(rows[name], work))]
        to.mkdir(parents=True, exist_ok=True)
        words = ["ensemble", *files, "--data", str(others), "-o", str(to / f"{row.name}.ensemble")]
        if len(files) < len(row.members):
            return False
    print("edgeface", *words, flush=True)
    code = run(words)  # of an ensemble 1 where its best member is as good, which the table shows
    file = int8_file(row, work)
    if file is None or code not in (0, 1):
        return False
    record.write_text(json.dumps(measure(file, people, others) | {"size": file.stat().st_size}))
    return True


def cells(row: Row, work: Path, times: dict[Path, float]) -> list[str]:
    """The row of the page."""
    seeds = [json.loads(path.read_text()) for path in records(row, work)]
    file, record = int8_file(row, work), work / f"{row.name}-int8.json"
    int8: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    shown = [spread([found[key] for found in seeds or [int8]]) for key in ("names", "tar")]
    macs = sum(cost.macs for cost in read_contract(file).cost.values()) if file and not row.members else 0
    return [
        row.topic,
        row.name,
        *shown,
        spread([int8.get("tar")]),
        f"{int8['size'] / 1e6:.2f}" if int8 else "",
        f"{times[file]:.2f}" if file in times else "",
        f"{seeds[0]['parameters'] / 1e6:.2f}" if seeds else "",
        f"{macs / 1e6:.0f}" if macs else "",
    ]


def records(row: Row, work: Path) -> list[Path]:
    """What was measured of a row, one file a seed."""
    return sorted(path for path in work.glob("*.json") if re.fullmatch(rf"{re.escape(row.name)}-\d+", path.stem))


def spread(shares: Sequence[float | None]) -> str:
    """Mean and standard deviation over the seeds, in %; nothing where nothing is known."""
    known = [100 * share for share in shares if share is not None and math.isfinite(share)]
    if not known:
        return ""
    return f"{np.mean(known):.1f}" + (f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else "")


def write(people: Path, others: Path, work: Path) -> None:
    """Times the files and replaces what stands between the marks of the page."""
    done = [row for row in ROWS if records(row, work) or (work / f"{row.name}-int8.json").exists()]
    files = [file for row in done if (file := int8_file(row, work))]
    results = bench(files) if files else None
    times = {row.path: row.cpu_p50_ms.value for row in results.rows if row.cpu_p50_ms} if results else {}
    known, strangers = load_data(people), load_data(others)
    counts = [len(records(row, work)) for row in done if not row.members]
    machine = f"{results.device.name}, {results.device.system}, one thread; " if results else ""
    few = min(counts, default=0)
    seeds = f"{few}" if few == max(counts, default=0) else f"{few} to {max(counts, default=0)}"
    made = [
        table(COLUMNS, [cells(row, work, times) for row in done]),
        f"\n{machine}seeds of each row: {seeds}, int8 of the first; {len(known.rows('train')):,} photos of ",
        f"{len(known.identities)} people to train on, {len(known.rows('test')):,} others of them to name, ",
        f"{len(strangers.faces):,} photos of ",
        f"{len(strangers.identities)} other people to compare. Each row: ",
        f"`edgeface train PEOPLE --backbone … --head … {COMMAND}`.\n",
    ]
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + "".join(made) + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")


def chosen(names: Sequence[str] | None) -> Iterator[Row]:
    """The rows of these names, all where none is named."""
    return (row for row in ROWS if not names or row.name in names)


def main(given: Sequence[str] | None = None) -> int:
    """Trains what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="aligned crops, <identity>/<photo>")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for runs and files")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="these alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--write-only", action="store_true", help="train nothing")
    options = parser.parse_args(given)
    people, others = split(options.photos, options.output)
    work, left_out = options.output, []
    if not options.write_only:
        for seed in options.seeds:
            for row in chosen(options.rows):
                if not row.members and row.name not in left_out and not train(row, seed, people, others, work):
                    left_out.append(row.name)
        for row in chosen(options.rows):
            if row.name not in left_out and not export(row, options.seeds[0], people, others, work):
                left_out.append(row.name)
    write(people, others, work)
    if left_out:
        print("left out:", ", ".join(left_out))
    return 1 if left_out else 0


if __name__ == "__main__":
    raise SystemExit(main())
