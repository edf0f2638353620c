r"""Trains nets on Pins and writes the table that stands beside the paper's (docs/results.md).

    edgeface data prepare PINS prepared/pins --licence research-use
    edgeface data split prepared/pins --protocol paper
    python -m reproduce.pins_table train mobilefacenet --photos prepared/pins --peers peers runs
    python -m reproduce.pins_table measure mobilefacenet --photos prepared/pins --peers peers runs
    python -m reproduce.pins_table write --photos prepared/pins --peers peers runs

``train`` prints and runs the command of one row, after those of the rows whose nets it starts from, into ``pins-NAME``
below ``runs``; run again it goes on where it stopped. ``measure`` names the test photos with a row's net, or with a
peer; ``write`` puts all that was measured into the page, with curves and confusion matrices. Rows of runs that are not
below ``runs`` stay as the page has them. ``resnet18-dlib`` wants other people's photos too, without their names:
--others.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from edgeface.cli import run
from edgeface.evaluation.identification import confusion
from edgeface.evaluation.pipeline import Plan, evaluate_model
from edgeface.report.evaluation import draw_confusion
from reproduce import dlib_start

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "results.md"
MARKS = ("<!-- pins_table: begin -->\n", "<!-- pins_table: end -->\n")
PEERS = {"foamliu": "foamliu-mobilefacenet-128d.onnx", "sirius": "sirius-mobilefacenet-192d.tflite"}
"""The name of a contract that edgeface knows → the file (README.md says where it is from)."""
_FACES = "--set batch_size=48 --set logit_scale=24 --set margin=0.3 --set scale_jitter=0.1 --set erase_prob=0.1"
_SMALL = f"{_FACES} --set progressive_size=64 --set margin_warmup_ratio=1.0 --set warmup_ratio=0.15"
_FULL = f"{_FACES} --set margin_warmup_ratio=0.5 --set warmup_ratio=0.1"
_FOAMLIU, _SIRIUS = (f" --teacher {{peers}}/{file} --teacher-contract {contract}" for contract, file in PEERS.items())
_TAUGHT = _FOAMLIU + _SIRIUS
_DLIB = (
    "--guide weights/mobilefacenet.safetensors "
    "--set fit_embedding=true --set classification_weight=0 --set batch_size=32 --set scale_jitter=0.1 "
    "--set erase_prob=0.1 --set warmup_ratio=0.1 --set mixed_precision=bf16"
)
_TUNED = (
    "--set fit_embedding=true --set imprint_head=true --set lr=3e-4 --set embedding_lr_scale=0.05 "
    f"--set mixed_precision=bf16 {_FULL}{_FOAMLIU}"
)
TRAINING: Mapping[str, str] = {
    "mobilefacenet-small": "--backbone mobilefacenet:act=relu --epochs 22 --set lr=3e-3 --set progressive_ratio=0.9 "
    f"{_SMALL}",
    "mobilefacenet": "--backbone mobilefacenet:act=relu --init {runs}/pins-mobilefacenet-small/best.safetensors "
    f"--epochs 4 --set lr=1.5e-3 {_FULL}",
    "resnet18": f"--backbone resnet18 --epochs 30 --set lr=2e-3 --set progressive_ratio=0.8 "
    f"--set mixed_precision=bf16 {_SMALL}",
    "mobilefacenet-taught": "--backbone mobilefacenet:act=relu6,stem=foamliu --init {peers}/foamliu.pt "
    f"--init-names foamliu --set normalization=imagenet --epochs 1 --set lr=5e-4 {_FULL}{_TAUGHT}",
    "resnet18-dlib": "--backbone resnet18:pool=none --init {runs}/resnet18-dlib-start.safetensors "
    f"{_DLIB} --set lr=5e-4 --unlabeled {{others}} --epochs 2",
    "resnet18-dlib-taught": "--backbone resnet18:pool=none --init {runs}/pins-resnet18-dlib/best.safetensors "
    f"--epochs 10 {_TUNED}",
    "vgg11-dlib": "--backbone vgg11:pool=none --init {runs}/vgg11-dlib-start.safetensors "
    f"{_DLIB} --set lr=3e-4 --set embedding_lr_scale=0.05 --epochs 2",
    "vgg11-dlib-taught": "--backbone vgg11:pool=none --init {runs}/pins-vgg11-dlib/best.safetensors "
    f"--epochs 3 {_TUNED}",
}
"""Row → words of ``edgeface train``. Rows in -small see faces of 64 pixels; others may start from their nets."""
DLIB = {"resnet18-dlib": "resnet18:pool=none", "vgg11-dlib": "vgg11:pool=none"}
"""Rows that start from dlib's net, and the backbone that it is fitted into first."""
METHODS = {"vgg11-dlib-taught": "svc"}
"""How a row's net names photos, where not by the nearest mean: the paper's VGG route."""
FIGURES = ("accuracy", "precision", "recall", "f1")
COLUMNS = ("net", "minutes", "training loss", "validation loss", *(f"{word}, %" for word in FIGURES))
_INKS = ("#2f7ed8", "#e07b22", "#3a9d5d", "#8a5cc2", "#c23b5a")


def command(name: str, photos: Path, peers: Path, runs: Path, others: Path = Path("OTHERS")) -> list[str]:
    """``edgeface``'s words for the row ``name``."""
    words = ["train", str(photos), *TRAINING[name].format(peers=peers, runs=runs, others=others).split()]
    return [*words, "--licence", "research-use", "-o", str(runs / f"pins-{name}")]


def commands(name: str, photos: Path, peers: Path, runs: Path) -> Iterator[str]:
    """The lines of a shell that train the row ``name``."""
    if name in DLIB:
        yield f"python -m reproduce.dlib_start {' '.join(dlib_command(name, photos, peers, runs))}\n"
    yield f"edgeface {' '.join(command(name, photos, peers, runs))}\n"


def dlib_command(name: str, photos: Path, peers: Path, runs: Path) -> list[str]:
    """``reproduce.dlib_start``'s words for a row of ``DLIB``."""
    file, start = peers / "dlib_face_recognition_resnet_model_v1.dat", runs / f"{name}-start.safetensors"
    return [DLIB[name], str(file), "--photos", str(photos), "-o", str(start)]


def measure(name: str, photos: Path, peers: Path, runs: Path) -> dict[str, Any]:
    """Names the test photos by a row's net or a peer: the figures, and the confusion matrix."""
    if name in PEERS:
        found = evaluate_model(peers / PEERS[name], Plan(data=photos, contract=Path(name)))
    else:
        found = evaluate_model(runs / f"pins-{name}", Plan(data=photos, method=METHODS.get(name, "centroid")))
    figures, answers, data = found.evaluation.identification, found.evaluation.answers, found.data
    if figures is None or answers is None or data is None:
        raise SystemExit(f"{photos}: no test photos to name")
    matrix = confusion(answers, len(data.identities)).tolist()
    return {"matrix": matrix} | {word: getattr(figures, word) for word in FIGURES}


def row(name: str, found: Mapping[str, Any], folder: Path) -> list[str]:
    """The cells of the table; a peer has no run."""
    cells = [f"{100 * found[word]:.2f}" for word in FIGURES]
    if name in PEERS:
        return [title(name), "", "", "", *cells]
    last, time = curves(folder)[-1], sum(map(minutes, runs_of(folder)))
    threads = int(json.loads((folder / "run.json").read_text())["environment"]["threads"])
    spent = f"{time:.0f}" + (f" on {threads} threads" if threads > 1 else "")
    return [title(name), spent, f"{float(last['train_loss']):.2f}", f"{float(last['val_loss']):.2f}", *cells]


def title(name: str) -> str:
    """The first cell of a row."""
    if name in PEERS:
        return f"peer {name}: these photos never seen"
    return f"{name} + PCA + SVC" if METHODS.get(name) == "svc" else name


def stages(name: str) -> list[str]:
    """The row, after those whose nets it starts from."""
    start = re.search(r"--init \{runs\}/pins-(\S+)/", TRAINING[name])
    return [*(stages(start[1]) if start else []), name]


def runs_of(folder: Path) -> list[Path]:
    """The run, after those that it started from."""
    return [folder.parent / f"pins-{name}" for name in stages(folder.name.removeprefix("pins-"))]


def minutes(folder: Path) -> float:
    """From the first file of a run that nothing interrupted to the last line of its curves."""
    return ((folder / "curves.csv").stat().st_mtime - (folder / "run.json").stat().st_mtime) / 60


def curves(folder: Path) -> list[dict[str, str]]:
    """The epochs of all stages, one after another."""
    rows: list[dict[str, str]] = []
    for stage in runs_of(folder):
        with (stage / "curves.csv").open(newline="") as file:
            rows += csv.DictReader(file)
    return rows


def draw_curves(folders: Mapping[str, Path]) -> Figure:
    """Accuracy of the validation photos by epoch; a dot where faces have their full size."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    # A run that went on from another begins with its epochs: the first lies on top.
    for order, ((name, folder), ink) in enumerate(zip(folders.items(), _INKS, strict=False)):
        points = [  # where there is a head
            (epoch, 100 * float(at["val_accuracy"]), at["side"])
            for epoch, at in enumerate(curves(folder), start=1)
            if at["val_accuracy"]
        ]
        if not points:
            continue
        full = [(epoch, share) for epoch, share, side in points if side == points[-1][2]]
        axes.plot([at[0] for at in points], [at[1] for at in points], color=ink, label=name, zorder=3 - order / 10)
        axes.plot([at[0] for at in full], [at[1] for at in full], "o", color=ink, zorder=3 - order / 10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("named rightly by the head, %")
    axes.grid(alpha=0.12)
    axes.legend(frameon=False)
    return figure


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, ["---"] * len(columns), *rows))


def write(runs: Path, picture: str) -> None:
    """Replaces the rows of these runs between the marks of the page, and draws their pictures."""
    before, rest = PAGE.read_text("utf-8").split(MARKS[0])
    old, after = rest.split(MARKS[1])
    lines = [line.strip("| ").split(" | ") for line in old.splitlines() if line.startswith("| ")]
    rows = {cells[0]: cells for cells in lines[2:]}
    names = [name for name in (*TRAINING, *PEERS) if (runs / f"pins-{name}.json").exists()]
    folders = {name: runs / f"pins-{name}" for name in names if name in TRAINING}
    with matplotlib.rc_context({"font.size": 9}):
        for name in names:
            found = json.loads((runs / f"pins-{name}.json").read_text())
            rows[title(name)] = row(name, found, runs / f"pins-{name}")
            if name in folders:
                figure = draw_confusion(np.array(found["matrix"]), [""] * len(found["matrix"]))
                figure.savefig(DOCS / "images" / f"pins-{name}.png", dpi=80)
        draw_curves(folders).savefig(DOCS / "images" / picture, dpi=100)
    found = json.loads((next(iter(folders.values())) / "run.json").read_text())["environment"]
    machine = f"{found['machine']}, one thread a run where not said, PyTorch {found['torch']}"
    shown = [name for name in (*TRAINING, *PEERS) if title(name) in rows]
    steps = dict.fromkeys(step for name in shown if name in TRAINING for step in stages(name))
    made = [
        table(COLUMNS, [rows[title(name)] for name in shown]),
        f"\n{machine}. The commands:\n\n```\n",
        *(line for name in steps for line in commands(name, Path("PINS"), Path("PEERS"), Path("runs"))),
        "```\n",
    ]
    PAGE.write_text(before + MARKS[0] + "".join(made) + MARKS[1] + after, "utf-8")


def main(given: Sequence[str] | None = None) -> int:
    """Trains a row, measures it, or writes the page; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("train", "measure", "write"))
    parser.add_argument("name", choices=(*TRAINING, *PEERS), nargs="?")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="Pins, prepared and split")
    parser.add_argument("--peers", type=Path, required=True, help="folder of the peers' files")
    parser.add_argument("--others", type=Path, default=Path("OTHERS"), help="prepared photos of other people")
    parser.add_argument("--picture", default="pins-curves.png", help="of the curves of these runs, in docs/images")
    options = parser.parse_intermixed_args(given)
    where = (options.photos, options.peers, options.runs)
    if options.action == "write":
        write(options.runs, options.picture)
    elif options.action == "measure":
        found = measure(options.name, *where)
        (options.runs / f"pins-{options.name}.json").write_text(json.dumps(found))
        print(*(f"{word} {100 * found[word]:.2f}" for word in FIGURES))
    else:
        for name in stages(options.name):
            if name in DLIB and not (options.runs / f"{name}-start.safetensors").exists():
                options.runs.mkdir(parents=True, exist_ok=True)
                dlib_start.main(dlib_command(name, *where))
            words = [*command(name, *where, options.others), "--resume"]
            print("edgeface", " ".join(words))
            if failed := run(words):
                return failed
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
