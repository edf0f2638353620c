"""Kills edgeface's commands at random moments and fills their disks, and counts what is lost: ``make kills``.

    python tests/kills                       200 kills, 50 full disks, then limits and SIGTERM
    python tests/kills --only train --kills 5 --disks 0

Everything follows from ``--seed``. The report is a file with a line for each attempt, and a second call with the same
file goes on where the first stopped. Needs Linux, unshare (util-linux), and the extras of ``make setup``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checks import Shot, meaning, partial, rows_of, shot
from process import Done, run, used, warm
from verbs import VERBS, Verb

INSIDE = "EDGEFACE_KILLS_INSIDE"
PAGE = 4096
FAULTS = ("lost", "partial", "another end", "left behind", "not in one line")


@dataclass(frozen=True)
class Undisturbed:
    """What a command does when nothing befalls it."""

    code: int
    seconds: float
    points: int
    bytes: int
    """That its file system holds more of at the most."""
    place: Path
    shot: Shot
    volatile: frozenset[str]
    """Files whose bytes differ between two runs."""


@dataclass(frozen=True)
class Bench:
    """Where the commands run."""

    folder: Path
    template: Path

    @contextlib.contextmanager
    def place(self, verb: Verb, *, disk: bool = False) -> Iterator[Path]:
        """A folder with what the verb needs, on a file system of its own where ``disk``."""
        # All of one name: a command's output may hold the path.
        place = self.folder / "at" / "work"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "none", place], check=True)
        try:
            for name in verb.needs:
                source = self.template / name
                (shutil.copytree if source.is_dir() else shutil.copy2)(source, place / name)
            yield place
        finally:
            if disk:
                subprocess.run(["umount", "--lazy", place], check=True)


def resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)


def make_template(folder: Path) -> None:
    """Photos of AT&T people, and what is made of them."""
    import cv2
    import numpy as np
    from PIL import Image

    def edgeface(line: str, codes: tuple[int, ...] = (0,)) -> None:
        done = run(line.split(), folder)
        if done.code not in codes:
            raise SystemExit(f"edgeface {line}: {done.code}: {done.err}")

    edgeface("data fetch att all")
    for name, people, photos in (
        ("photos", range(1, 8), range(1, 6)),
        ("few", range(1, 5), range(1, 6)),
        ("more", range(5, 9), range(6, 8)),
    ):
        for person in people:
            target = folder / name / f"s{person}"
            target.mkdir(parents=True)
            for photo in photos:
                shutil.copy2(folder / "all" / f"s{person}" / f"{photo}.pgm", target)
    edgeface("data prepare few prepared")
    edgeface("train prepared -o run --backbone mobilefacenet-tiny --epochs 2 --set batch_size=8")
    edgeface("enroll photos/s1 photos/s2 photos/s3 --force --gallery people.gallery")
    video = cv2.VideoWriter(str(folder / "door.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    for person in (1, 5):
        with Image.open(folder / "all" / f"s{person}" / "1.pgm") as image:
            face = np.array(image.convert("RGB").resize((138, 168)))
        for step in range(15):
            frame = np.full((240, 320, 3), 90, np.uint8)
            frame[30:198, 4 * step : 4 * step + 138] = face
            video.write(frame)
    video.release()
    shutil.rmtree(folder / "tmp")


def undisturbed(bench: Bench, verb: Verb, kept: Path) -> Undisturbed:
    """The command three times: for its files and which of them are never the same, and on a disk that is watched."""
    shots, lengths = [], []
    for _ in range(2):
        with bench.place(verb) as place:
            done = run(verb.words(), place)
            _expect_ended(done, verb)
            shots.append(shot(place))
            lengths.append(done.seconds)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(place, kept, symlinks=True)
    with bench.place(verb, disk=True) as place:
        before = used(place)
        watched = run(verb.words(), place, watched=True)
        _expect_ended(watched, verb)
    first, second = shots
    if first.keys() != second.keys():
        raise SystemExit(f"{verb.line}: two runs leave other files: {sorted(first.keys() ^ second.keys())}")
    volatile = frozenset(name for name in first if first[name] != second[name])
    return Undisturbed(done.code, min(lengths), done.points, watched.most - before, kept, second, volatile)


def _expect_ended(done: Done, verb: Verb) -> None:
    if done.code not in (0, 1) or "Traceback" in done.err:
        raise SystemExit(f"{verb.line}: ended with {done.code} undisturbed: {done.err}")


def lost(bench: Bench, verb: Verb, place: Path, done: Done) -> list[str]:
    """What was there or was acknowledged, and is not any more."""
    found = []
    for name in verb.needs:
        source, here = bench.template / name, place / name
        if name.endswith(".gallery"):
            gone = {row[:2] for row in rows_of(source)} - {row[:2] for row in rows_of(here)}
            gone -= {row for row in gone if verb.line.startswith("gallery remove") and row[0] == "s2"}
            found += [f"{row} is gone from {name}" for row in sorted(gone)]
        elif name != verb.changes and source.is_dir():
            now = shot(here)
            found += [f"{name}/{path} is gone or changed" for path, was in shot(source).items() if now.get(path) != was]
    return found + verb.said(place, done.out, done.err)


def another_end(bench: Bench, verb: Verb, place: Path, wanted: Undisturbed) -> tuple[list[str], list[str]]:
    """The command repeated: what ends otherwise than undisturbed, and what is left behind."""
    code = wanted.code
    if verb.line.startswith("run --folder"):  # takes a new or an empty folder, as it says
        shutil.rmtree(place / "out", ignore_errors=True)
    if verb.line.startswith("run --video"):  # pictures of visits have the time in their names
        shutil.rmtree(place / "snaps", ignore_errors=True)
    if verb.line.startswith("gallery remove") and not any(row[0] == "s2" for row in rows_of(place / "people.gallery")):
        code = 2  # it was done: the repeated command says that there is nobody of that name
    again = run(verb.words(repeated=True), place)
    faults = []
    if again.code != code:
        faults.append(f"ends with {again.code} in place of {code}: {again.err[-300:]}")
    now = shot(place)
    left = sorted(now.keys() - wanted.shot.keys())
    faults += [f"{name} is missing" for name in sorted(wanted.shot.keys() - now.keys())]
    for name in now.keys() & wanted.shot.keys():
        if now[name] != wanted.shot[name]:
            one, other = meaning(place / name), meaning(wanted.place / name)
            if one != other or (name not in wanted.volatile and one is None):
                faults.append(f"{name} is another")
    return faults, left


def attempt(bench: Bench, verb: Verb, wanted: Undisturbed, what: dict[str, object]) -> dict[str, object]:
    """One disturbed command and what came of it."""
    kind, disk = what["kind"], what["kind"] == "disk"
    with bench.place(verb, disk=disk) as place:
        if disk:
            (place / "tmp").mkdir()
            resize(place, used(place) + int(what["bytes"]))  # type: ignore[call-overload]

        def limit() -> None:
            if kind == "files":
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            if kind == "memory":
                size = PAGE * int(Path("/proc/self/statm").read_text().split()[0])
                size += int(what["bytes"])  # type: ignore[call-overload]
                resource.setrlimit(resource.RLIMIT_AS, (size, size))

        done = run(
            verb.words(),
            place,
            kill_after=what.get("after"),  # type: ignore[arg-type]
            kill_at=what.get("point"),  # type: ignore[arg-type]
            with_signal=signal.SIGTERM if kind == "term" else signal.SIGKILL,
            limit=limit,
        )
        found: dict[str, object] = {**what, "code": done.code}
        if kind != "kill":
            found["not in one line"] = _untidy(done, wanted, kind)
        left_now: list[str] = []
        if kind == "term" and done.code == 128 + signal.SIGTERM:
            left_now = [name for name in shot(place) if ".edgeface" in name or name.startswith("tmp/")]
        found["partial"] = partial(place)
        if disk:
            resize(place, 512 << 20)
        found["lost"] = lost(bench, verb, place, done)
        found["another end"], left = another_end(bench, verb, place, wanted)
        found["left behind"] = left_now + left
        return found


def _untidy(done: Done, wanted: Undisturbed, kind: object) -> list[str]:
    """Ends as undisturbed, or with exit code 2 (143 after SIGTERM) and a last line that says why."""
    lines = [line for line in done.err.splitlines() if line.strip()]
    codes = (wanted.code, *((0, 128 + signal.SIGTERM, -signal.SIGTERM) if kind == "term" else (2,)))
    if done.code not in codes or "Traceback" in done.err:
        return [f"ended with {done.code}: {done.err[-1500:]}"]
    if done.code == 2 and not (lines and lines[-1].startswith("edgeface: ")):
        return [f"no line says why: {done.err[-300:]}"]
    return []


def drawn(name: str, verb: Verb, wanted: Undisturbed, asked: argparse.Namespace) -> list[dict[str, object]]:
    """What is to befall a command: kills, half at moments and half before changes of files, and ever larger disks."""
    kills = verb.kills if asked.kills is None else asked.kills
    disks = verb.disks if asked.disks is None else asked.disks
    limits = asked.limits
    chance = random.Random(f"{asked.seed} {name}")
    found: list[dict[str, object]] = []
    for number in range(kills):
        if number % 2 and wanted.points:
            found.append({"kind": "kill", "point": chance.randint(1, wanted.points)})
        else:
            found.append({"kind": "kill", "after": round(chance.uniform(0.02, wanted.seconds), 4)})
    pages = max(wanted.bytes // PAGE, 1)
    for number in range(disks):
        share = (number + chance.random()) / disks
        found.append({"kind": "disk", "bytes": int(share * pages) * PAGE})
    for number in range(limits):
        found.append({"kind": "term", "after": round(chance.uniform(0.1, wanted.seconds), 4)})
        if not number:
            found.append({"kind": "files"})
        found.append({"kind": "memory", "bytes": chance.choice([8, 32, 128, 400]) << 20})
    return [{"verb": name, "number": number, **what} for number, what in enumerate(found)]


def print_tables(rows: list[dict[str, object]]) -> int:
    """The report; gives the number of attempts with a fault."""
    titles = {"kill": "SIGKILL", "disk": "full disks", "term": "SIGTERM", "files": "64 files", "memory": "memory"}
    bad = [row for row in rows if any(row.get(fault) for fault in FAULTS)]
    for row in bad:
        print(json.dumps({key: value for key, value in row.items() if value or key == "number"}))
    for kind, title in titles.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        if not of_kind:
            continue
        print(f"\n| {title} | tried | ended before | {' | '.join(FAULTS)} |\n| --- |{' ---: |' * (2 + len(FAULTS))}")
        for name in (*VERBS, "all"):
            some = [row for row in of_kind if name in (row["verb"], "all")]
            if some:
                early = sum(row["code"] in (0, 1) for row in some)
                counts = Counter(fault for row in some for fault in FAULTS if row.get(fault))
                print(f"| {name} | {len(some)} | {early} | {' | '.join(str(counts[fault]) for fault in FAULTS)} |")
    total = {kind: sum(row["kind"] == kind for row in rows) for kind in ("kill", "disk")}
    gone = sum(bool(row.get("lost") or row.get("partial")) for row in rows)
    print(f"\n{total['kill']} kills and {total['disk']} full disks: {gone} lost; faults in {len(bad)} of {len(rows)}")
    return len(bad)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=VERBS, action="append", help="this command alone; may repeat")
    parser.add_argument("--kills", type=int, help="of each command, in place of 200 over all")
    parser.add_argument("--disks", type=int, help="of each command, in place of 50 over all")
    parser.add_argument("--limits", type=int, default=2, help="SIGTERMs and memory limits each (%(default)s)")
    parser.add_argument("--report", type=Path, default=Path("kills.jsonl"), help="file to go on with (%(default)s)")
    asked = parser.parse_args()
    if not os.environ.get(INSIDE):
        # A mount namespace of its own: the small disks are gone with this process, however it ends.
        command = ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv]
        os.execvpe("unshare", command, os.environ | {INSIDE: "1"})
    report = asked.report.resolve()
    rows = [json.loads(line) for line in report.read_text("utf-8").splitlines()] if report.exists() else []
    done = {(row["verb"], row["number"]) for row in rows}
    warm()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        bench = Bench(Path(folder), Path(folder) / "template")
        bench.template.mkdir()
        make_template(bench.template)
        for name in asked.only or VERBS:
            verb = VERBS[name]
            wanted = undisturbed(bench, verb, Path(folder) / "wanted")
            size = f"{wanted.seconds:.1f} s, {wanted.points} changes of files, {wanted.bytes / 1e6:.1f} MB"
            print(f"{name}: {size}", file=sys.stderr)
            for what in drawn(name, verb, wanted, asked):
                if (name, what["number"]) in done:
                    continue
                row = attempt(bench, verb, wanted, what)
                rows.append(row)
                with report.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    return 1 if print_tables([row for row in rows if row["verb"] in (asked.only or VERBS)]) else 0


if __name__ == "__main__":
    sys.exit(main())
