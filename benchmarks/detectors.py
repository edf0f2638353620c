"""What the detectors find and what it costs, against an older build in the same run, as one table.

    python -m benchmarks.detectors FACES [--old CHECKOUT] [--pairs FOLDER] [--cfp FOLDER --recognizer SIRIUS.tflite]
        [--heads A B] [--peer MOBILEFACENET.onnx] [--boards rpi-zero-2w rpi-4b rpi-5] [--only ROWS] [--state FILE]
        [--write PAGE]

FACES is a folder of photos of one face in the middle, LFW's or AT&T's. Builds and detectors take turns, each in fresh
processes, one thread, the engine of the default model; times are thread CPU time. Rows are of:

- speed: finding and aligning all faces of photos of five kinds, and from a photo to a name; with ``--peer`` also
  facenet-pytorch's MTCNN with that MobileFaceNet, and dlib's face_recognition where it is installed
- start: CPU time and peak memory from the start of Python to the first name
- size: the nets that a detector opens, in both formats
- recall: 100 faces pasted into soft shapes at 20 to 40 pixels; points must be near the true ones
- empty: finds in scenes of shuffled tiles without a face
- heads: HEADS, two portraits, the larger first, pasted onto each other in 315 ways
- view 1: LFW's, where FOLDER has its two pair files
- cfp: frontal-profile pairs of CFP (a folder with Data and Protocol) but fold 02, with the recognizer that takes two
  photos of 112 pixels at once
- counted: instructions of finding and aligning one face at 640 × 480 on the boards' emulated cores

Prints Markdown, or with ``--json`` one document. ``--state`` keeps what was measured, so that a run that was stopped
goes on, and so that rows that do not depend on the machine's load (``--only recall heads``) can be measured while it is
busy and the others (``--only speed start``) while it is not: all rows of the file are shown. A row of times and memory
is always of one run, and the load meanwhile is said below the table. ``--write docs/detectors.md`` puts the table into
that page, and then names the sentences that quote it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from PIL import Image

from edgeface_devices.boards.profiles import find_profile
from edgeface_devices.emulate import userland
from edgeface_devices.emulate.core import instructions
from edgeface_runtime.images import SUFFIXES, open_rgb

HERE = Path(__file__).parents[1]
TASKS = Path(__file__).with_name("detector_tasks.py")
ROWS = ("speed", "start", "size", "recall", "empty", "heads", "view 1", "cfp", "counted")
REPEATED = ("speed", "start")
NETS_OF = {
    "fast": ("blazeface_full_range", "blazeface_short_range", "onet"),
    "blazeface": ("blazeface_full_range", "blazeface_short_range", "onet"),
    "mtcnn": ("pnet", "rnet", "onet"),
    "yunet": ("yunet", "onet"),
}
# What the table calls a figure, and what it was to be: a share of the older build unless it says another unit.
CALLED = {
    "640 × 480, one face": ("find and align, 640 × 480, one face, ms", "0.40"),
    "640 × 480, six faces": ("the same, six faces", "0.40"),
    "176 × 176": ("the same, 176 × 176", ""),
    "1920 × 1080": ("the same, 1920 × 1080", "0.40"),
    "640 × 480, no face": ("the same, 640 × 480, no face but tiles of faces", ""),
    "to a name, 640 × 480, one face": ("photo to name, 640 × 480, one face, ms", "0.50, 15 ×"),
    "to a name, 176 × 176": ("the same, 176 × 176", "7 ×"),
    "start to first name, CPU s": ("start of Python to first name, CPU s", "0.82"),
    "peak memory, MB": ("peak memory of that process, MB", "85 MB"),
    "its nets, both formats, MB": ("its nets, both formats, MB", "1.5 MB"),
    "recall at 20 pixels, %": ("faces of 20 pixels found in 640 × 480, of 100, %", "70 %"),
    "recall at 25 pixels, %": ("the same, 25 pixels", "95 %"),
    "recall at 30 pixels, %": ("the same, 30 pixels", "99 %"),
    "recall at 40 pixels, %": ("the same, 40 pixels", "99 %"),
    "finds in 1,000 scenes without a face": ("finds in 1,000 scenes of shuffled face tiles without a face", "not more"),
    "of them one lost": ("of them one of the two lost", "5"),
    "LFW View 1, %": ("LFW View 1, shipped int8 model, % (1,000 pairs, ± 0.6)", "99.2 %"),
    "CFP frontal-profile, folds 01 03 04 05 06 07 08 09 10, %": (
        "CFP frontal-profile, folds 01 and 03 to 10, %",
        "at least `mtcnn`'s",
    ),
    "instructions, cortex-a53, millions": ("instructions to find and align one face, millions, Cortex-A53", "0.40"),
    "instructions, cortex-a72, millions": ("instructions to find and align one face, millions, Cortex-A72", "0.40"),
    "instructions, cortex-a76, millions": ("instructions to find and align one face, millions, Cortex-A76", "0.40"),
}
MARKS = ("<!-- detectors: begin -->\n", "<!-- detectors: end -->\n")
QUOTED = "detectors.md#yunet"
"""Who quotes the table links to it."""
Cells = dict[str, float]


@dataclass(frozen=True)
class Column:
    """A build and one of its detectors."""

    title: str
    build: Path
    detector: str

    def run(self, task: str, asked: dict[str, Any], prefix: tuple[str, ...] = ()) -> str:
        """What a task prints, in a process of its own."""
        roots = [str(self.build / part) for part in ("", "export", "devices", "runtime")]
        settings = {"PYTHONPATH": os.pathsep.join(roots), "EDGEFACE_BENCHMARK": json.dumps(asked)}
        command = [*prefix, sys.executable, str(TASKS), task, self.detector]
        done = subprocess.run(command, env={**os.environ, **settings}, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def nets(self) -> Path:
        """Where the build keeps its nets."""
        folders = ("runtime/edgeface_runtime/detection/nets", "runtime/edgeface_runtime/nets")
        return next(self.build / folder for folder in folders if (self.build / folder).is_dir())


def size(column: Column) -> Cells:
    files = [column.nets() / f"{net}.{suffix}" for net in NETS_OF[column.detector] for suffix in ("onnx", "tflite")]
    return {
        "its nets, both formats, MB": round(sum(file.stat().st_size for file in files) / 1e6, 2),
        "all nets of the build, MB": round(sum(file.stat().st_size for file in column.nets().iterdir()) / 1e6, 2),
    }


def counted(column: Column, scene: Path, boards: list[str]) -> Cells:
    """Millions of instructions of one call, on each board's core."""
    root, cells = userland.find(), {}
    for name in boards:
        core = userland.core_of(find_profile(name))
        with tempfile.TemporaryDirectory() as folder:
            mnt, count = Path(folder) / "mnt", Path(folder) / "count"
            mnt.mkdir()
            count.touch()
            for file in (TASKS, TASKS.with_name("detector_scenes.py"), scene):
                (mnt / file.name).write_bytes(file.read_bytes())
            subprocess.run(["cp", "-r", str(column.build / "runtime/edgeface_runtime"), str(mnt)], check=True)
            asked = json.dumps({"scene": f"/mnt/{scene.name}"})
            inner = ["env", "PYTHONPATH=/mnt", f"EDGEFACE_BENCHMARK={asked}", "python3", f"/mnt/{TASKS.name}"]
            command = userland.inside(root, core, [*inner, "counted", column.detector], mnt=mnt, count=count)
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            counts = instructions(count.read_text())
        if counts:
            cells[f"instructions, {core}, millions"] = round(counts["total"] / 1e6, 1)
    return cells


def peers(peer: Path, scenes: dict[str, str]) -> Iterator[tuple[str, Cells]]:
    """From a photo to a name, as facenet-pytorch and, where it is installed, dlib do it."""
    import importlib.util

    import numpy as np

    from benchmarks.detector_tasks import milliseconds
    from benchmarks.photo import dlib_pipeline, facenet

    made: dict[str, Callable[[], Any]] = {"facenet-pytorch": lambda: facenet(str(peer))}
    if importlib.util.find_spec("dlib") and importlib.util.find_spec("face_recognition_models"):
        made["dlib"] = dlib_pipeline
    shown = {kind: np.load(scenes[kind]) for kind in ("640 × 480, one face", "176 × 176")}
    for title, pipeline in made.items():
        run = pipeline()
        times = {kind: milliseconds(partial(run, photo), 5) for kind, photo in shown.items()}
        yield title, {f"to a name, {kind}": time for kind, time in times.items()}


def table(cells: dict[str, dict[str, float]], others: list[str], ours: list[str]) -> str:
    """Markdown: a row a figure, a column a build, the share of the last column of ours in the first, what was asked.

    Where the first of the others has the figure too, ours say how many times less theirs is.
    """
    columns = [*others, *ours]
    lines = ["| | " + " | ".join(columns) + " | share | asked |", "| --- |" + " --- |" * (len(columns) + 2)]
    for figure, row in cells.items():
        called, asked = CALLED.get(figure, (figure, ""))
        peer = row.get(others[0]) if others else None
        values = [
            f"{row[column]:,.4g}{f' ({peer / row[column]:.1f} ×)' if peer and column in ours else ''}"
            if column in row
            else ""
            for column in columns
        ]
        share = row[ours[-1]] / row[ours[0]] if row.get(ours[0]) and ours[-1] in row else None
        lines.append(f"| {called} | {' | '.join(values)} | {'' if share is None else f'{share:.2f}'} | {asked} |")
    return "\n".join(lines)


def quoting(root: Path) -> Iterator[str]:
    """File, line and words of each paragraph in README and docs that links to the table."""
    for file in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        lines = file.read_text("utf-8").splitlines()
        for number, line in enumerate(lines):
            if QUOTED in line:
                yield f"{file.relative_to(root)}:{number + 1}: {' '.join(lines[max(0, number - 1) : number + 1])}"


def commit_of(checkout: Path) -> str:
    """The short name of a checkout's commit, or the folder's where it is none."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short=7", "HEAD"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip() or checkout.name


def measure(
    given: argparse.Namespace,
    columns: list[Column],
    rows: list[str],
    state: dict[str, dict[str, Cells]],
    loads: dict[str, str],
    keep: Callable[[str, str, Cells], None],
) -> None:
    """Measures what the state lacks of these rows; ``keep`` gets each row of each column, ``loads`` the load."""
    faces = given.faces.resolve()
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Any] = {"faces": str(faces), "folder": folder, "scenes": given.scenes}
        asked |= {"photo": str(Path(folder) / "photo.jpg")}
        asked["heads"] = json.dumps([str(Path(path).resolve()) for path in given.heads or []])
        asked["folds"] = json.dumps([f"{number:02d}" for number in given.folds])
        for name in ("pairs", "cfp", "recognizer"):
            asked[name] = str(Path(getattr(given, name) or "").resolve())
        first = next(file for file in sorted(faces.rglob("*")) if file.suffix.lower() in SUFFIXES)
        Image.fromarray(open_rgb(first)).resize((640, 480)).save(asked["photo"], quality=90)
        kinds = dict(json.loads(line) for line in columns[-1].run("kinds", asked).splitlines())
        asked["kinds"] = json.dumps(kinds)

        for row in rows:
            if row in REPEATED:
                taken: dict[str, list[Cells]] = {}
                seen = []
                for _ in range(given.rounds):
                    for column in columns:
                        taken.setdefault(column.title, []).append(json.loads(column.run(row, asked)))
                    for title, cells in peers(given.peer, kinds) if row == "speed" and given.peer else ():
                        taken.setdefault(title, []).append(cells)
                    seen.append(os.getloadavg()[0])
                loads[row] = f"{row} {min(seen):.1f} to {max(seen):.1f}"
                for title, said in taken.items():
                    keep(row, title, {name: statistics.median(one[name] for one in said) for name in said[0]})
            for column in columns if row not in REPEATED else ():
                if column.title in state.get(row, {}):
                    continue
                if row == "size":
                    keep(row, column.title, size(column))
                elif row == "counted":
                    keep(row, column.title, counted(column, Path(kinds["640 × 480, one face"]), given.boards))
                else:
                    keep(row, column.title, json.loads(column.run(row, asked)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--old", type=Path, help="checkout of an older build; its default detector stands beside")
    parser.add_argument("--old-detector", default="fast")
    parser.add_argument("--detectors", nargs="+", default=["mtcnn", "blazeface", "yunet"])
    parser.add_argument("--heads", nargs=2, help="two portraits, the larger first")
    parser.add_argument("--pairs", type=Path, help="folder of pairsDevTrain.txt and pairsDevTest.txt")
    parser.add_argument("--cfp", type=Path, help="CFP's folder, with Data and Protocol")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, *range(3, 11)], help="of CFP, two at least; but 2")
    parser.add_argument("--recognizer", type=Path, help="TFLite file for CFP: 2×112×112×3, (x − 127.5) / 128")
    parser.add_argument("--peer", type=Path, help="MobileFaceNet that stands behind facenet-pytorch's MTCNN")
    parser.add_argument("--boards", nargs="*", default=[], help="whose emulated cores count: rpi-zero-2w rpi-4b rpi-5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--only", nargs="+", default=ROWS, choices=ROWS, metavar="ROWS", help=", ".join(ROWS))
    parser.add_argument("--state", type=Path, help="file that keeps what was measured")
    parser.add_argument("--write", type=Path, help="page whose table is written anew")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    columns = [Column(commit_of(given.old), given.old.resolve(), given.old_detector)] if given.old else []
    columns += [Column(f"`{name}`", HERE, name) for name in given.detectors]
    lacking = {"heads": given.heads, "view 1": given.pairs, "cfp": given.cfp and given.recognizer}
    lacking["counted"] = given.boards
    rows = [row for row in given.only if lacking.get(row, True)]
    state: dict[str, dict[str, Cells]] = {}
    loads: dict[str, str] = {}
    if given.state and given.state.exists():
        kept = json.loads(given.state.read_text())
        state, loads = kept["rows"], kept["loads"]

    def keep(row: str, title: str, cells: Cells) -> None:
        state.setdefault(row, {})[title] = cells
        print(f"{row}, {title}: {cells}", file=sys.stderr)
        if given.state:
            kept = {"rows": state, "loads": loads}
            given.state.write_text(json.dumps(kept, indent=1, ensure_ascii=False))

    def is_kept(row: str) -> bool:
        titles = columns[:1] if row in REPEATED else columns
        return all(column.title in state.get(row, {}) for column in titles)

    if not all(map(is_kept, rows)):
        measure(given, columns, [row for row in rows if not is_kept(row)], state, loads, keep)
    figures: dict[str, dict[str, float]] = {}
    shown = [column.title for column in columns]
    measured = [row for row in ROWS if row in state]
    for row in measured:
        for title, cells in state[row].items():
            for name, value in cells.items():
                figures.setdefault(name, {})[title] = round(value, 3)
    titles = list(dict.fromkeys(title for row in measured for title in state[row] if title not in shown))
    if given.json:
        print(json.dumps(figures, indent=1, ensure_ascii=False))
        return
    made = f"{table(figures, titles, shown)}\n"
    if loads:
        said = ", ".join(loads[row] for row in REPEATED if row in loads)
        made += f"\nLoad of the machine meanwhile ({os.cpu_count()} processors, one busy with this): {said}.\n"
    print(made, end="")
    if given.write:
        before, rest = given.write.read_text("utf-8").split(MARKS[0])
        given.write.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], "utf-8")
        print("\nThese sentences quote the table:", *quoting(HERE), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
