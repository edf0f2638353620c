"""Broken and hostile documents against every command that reads them: ``make hostile``.

    python -m benchmarks.hostile --tries 3500 --seed 0

Each try breaks one sound file in one way, and runs one command line on it in a process of its own. A *fault* is a
traceback, an exit code other than 0, 1 and 2, a process that dies, more than 30 s, more than 2 GB, a refusal of many
lines, a result written beside a refusal, or JSON that other programs cannot read. Exit code 1 where there is one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEGABYTES, LINES, LETTERS = 2000, 12, 1500
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
for _name in _ONE_THREAD:  # so that processes can be forked of this one; before numpy is imported
    os.environ[_name] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from benchmarks.hostile import mutations, seeds  # noqa: E402
from benchmarks.hostile.targets import PLACES, TARGETS, Target  # noqa: E402


@dataclass(frozen=True)
class Try:
    """One broken file and one command."""

    number: int
    target: Target
    words: list[str]
    what: str
    """How it was broken."""
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    code: int
    seconds: float
    megabytes: float
    fault: str
    """Empty where there is none."""


def plan(count: int) -> list[Target]:
    """The target of each try, each format by its share."""
    whole = sum(target.share for target in TARGETS)
    turns = [target for target in TARGETS for _ in range(round(count * target.share / whole) + 1)]
    random.Random(0).shuffle(turns)
    return turns[:count]


def prepare(number: int, target: Target, seed: int, root: Path, work: Path) -> Try:
    """Breaks the file of one try in a folder of its own."""
    rng = random.Random(f"{seed}:{number}")
    folder = work / str(number)
    kit = folder / "kit"
    (folder / "out").mkdir(parents=True)
    shutil.copytree(root / target.kit, kit, copy_function=os.link, symlinks=True)
    for database in (*kit.glob("*.gallery"), *kit.glob("*.db")):  # written in place
        data = database.read_bytes()
        database.unlink()
        database.write_bytes(data)
    file, verb = kit / target.file, rng.choice(target.verbs)
    data = file.read_bytes()
    file.unlink()
    if target.rename and rng.random() < 0.3:
        file = file.with_name(rng.choice(target.rename))
    if target.special and rng.random() < 0.07:
        what = mutations.special(file, rng)
    elif target.kit in ("gallery", "grouped") and file.suffix in (".gallery", ".db") and rng.random() < 0.8:
        what = "row"
        made = mutations.gallery(data, rng, file) if file.suffix == ".gallery" else mutations.bits(data, rng)
        file.write_bytes(made)
    else:
        mutate = rng.choice(target.mutate)
        what = mutate.__name__
        for _ in range(20):
            made = mutate(data, rng)
            if made != data:
                break
        file.write_bytes(made)
    places = {"KIT": str(kit), "SEEDS": str(root), "OUT": str(folder / "out"), "FILE": str(file)}
    words = []
    for name, path in PLACES.items():
        verb = verb.replace(name, path)
    for word in verb.split():
        for name, path in places.items():
            word = word.replace(name, path)
        words.append(word)
    return Try(number, target, words, what, folder)


def start(one: Try) -> int:
    """Runs it in a copy of this process, and gives the process's number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        os.chdir(one.folder)
        for stream, name in ((0, os.devnull), (1, one.folder / "stdout"), (2, one.folder / "stderr")):
            opened = os.open(name, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(opened, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ |= {
            "HOME": str(one.folder),
            "XDG_CACHE_HOME": str(one.folder / "cache"),
            "XDG_DATA_HOME": str(one.folder / "data"),
        }
        if one.target.format == "anchors":
            (one.folder / "data").mkdir()
            (one.folder / "kit").rename(one.folder / "data/edgeface")
        sys.argv = ["edgeface", *one.words]
        from edgeface.cli import run

        code = run(one.words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def judge(one: Try, status: int, seconds: float, megabytes: float, killed: str) -> Outcome:
    """Whether it went as promised."""
    code = os.waitstatus_to_exitcode(status)
    said = (one.folder / "stderr").read_text("utf-8", "replace") if (one.folder / "stderr").exists() else ""
    faults = [killed] if killed else []
    if "Traceback (most recent call last)" in said:
        last = [line for line in said.splitlines() if line and not line.startswith(" ")]
        where = [line.strip().split(", in ")[0] for line in said.splitlines() if line.startswith('  File "')]
        ours = [
            line.rpartition("/edgeface")[2]
            for line in where
            if "/site-packages/" not in line and "/lib/python" not in line
        ]
        faults.append(f"traceback {last[-1][:90] if last else ''} ({ours[-1] if ours else ''})")
    elif code not in (0, 1, 2) and not killed:
        faults.append(f"exit {code}")
    if code == 2 and not faults:
        lines = [line for line in said.splitlines() if line.strip()]
        if not lines:
            faults.append("refused without a word")
        refusals = [line for line in lines if line.startswith("edgeface: ")]  # the others tell of work before it
        if len(refusals) != 1 or len(lines) > LINES or any(len(line) > LETTERS for line in lines):
            faults.append(f"refused in {len(lines)} lines, {len(said)} letters")
        left = [path for path in (one.folder / "out").rglob("*") if path.is_file() and path.name in _FINAL]
        faults += [f"refused, and wrote {path.name}" for path in left]
    if code == 0 and not faults:
        for text in _documents(one):
            try:
                json.loads(text, parse_constant=_strict)
            except ValueError as error:
                faults.append(f"JSON that is none: {str(error)[:60]}")
    return Outcome(code, seconds, megabytes, "; ".join(faults))


_FINAL = (
    "page.html",
    "check.html",
    "bench.json",
    "people.json",
    "people.csv",
    "new.gallery",
    "copy.gallery",
    "best.safetensors",
)


def _documents(one: Try) -> Iterator[str]:
    if "--json" in one.words:
        yield (one.folder / "stdout").read_text("utf-8", "replace")
    elif "--json-lines" in one.words:
        yield from (one.folder / "stdout").read_text("utf-8", "replace").splitlines()
    for path in (one.folder / "out").glob("*.json"):
        yield path.read_text("utf-8", "replace")


def _strict(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def preload() -> None:
    """Imports what the commands import, once for all tries; nothing is computed, so that no thread is left behind."""
    import ai_edge_litert.interpreter  # noqa: F401
    import torch  # noqa: F401

    import edgeface

    for module in pkgutil.walk_packages(edgeface.__path__, "edgeface."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)


def watch(
    turns: list[tuple[int, Target]], seed: int, jobs: int, seconds: float, root: Path, work: Path, keep: Path | None
) -> Iterator[tuple[Try, Outcome]]:
    """Runs all, some at a time, and gives each as it ends."""
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    waiting = turns[::-1]
    running: dict[int, tuple[Try, float, str]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, target = waiting.pop()
            one = prepare(number, target, seed, root, work)
            running[start(one)] = (one, time.monotonic(), "")
        time.sleep(0.004)
        for child, (one, began, killed) in list(running.items()):
            done, status, usage = os.wait4(child, os.WNOHANG)
            if not done:
                try:
                    resident = int(Path(f"/proc/{child}/statm").read_text().split()[1]) * page
                except (OSError, IndexError):
                    resident = 0.0
                over = "more than 30 s" if time.monotonic() - began > seconds else ""
                over = over or ("more than 2 GB" if resident > MEGABYTES else "")
                if over and not killed:
                    os.killpg(child, signal.SIGKILL)
                    running[child] = (one, began, over)
                continue
            del running[child]
            peak = usage.ru_maxrss * 1024 / 1e6
            if not killed and peak > MEGABYTES:
                killed = "more than 2 GB"
            outcome = judge(one, status, time.monotonic() - began, peak, killed)
            yield one, outcome
            if outcome.fault and keep:
                shutil.rmtree(keep / str(one.number), ignore_errors=True)
                shutil.move(one.folder, keep / str(one.number))
            else:
                shutil.rmtree(one.folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--seconds", type=float, default=30, help="What a try may take; more where others use the cores."
    )
    parser.add_argument("--only", help="Formats whose name holds this.")
    parser.add_argument("--number", type=int, action="append", help="Only this try; may repeat.")
    parser.add_argument("--seeds", type=Path, help="Folder of the sound files, made where it is absent.")
    parser.add_argument("--keep", type=Path, help="Folder that keeps what led to faults, for looking at.")
    parser.add_argument("--log", type=Path, help="Text file with a line for each try.")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.seeds or Path(scratch) / "seeds"
        if not root.is_dir():
            print("making the sound files", flush=True)
            root.mkdir(parents=True)
            seeds.make(root)
        preload()
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        slowest, largest, kinds = (0.0, ""), (0.0, ""), Counter[str]()
        turns = plan(options.tries)
        work = Path(scratch) / "tries"
        work.mkdir()
        wanted = [
            (number, target) for number, target in enumerate(turns)
            if (not options.only or options.only in target.format) and (not options.number or number in options.number)
        ]  # fmt: skip
        log = options.log.open("w") if options.log else None
        for one, outcome in watch(wanted, options.seed, options.jobs, options.seconds, root, work, options.keep):
            row = counts[one.target.format]
            row["tried"] += 1
            kind = "faults" if outcome.fault else "refused" if outcome.code == 2 else "accepted"
            row[kind] += 1
            words = " ".join(word.replace(str(root), "SEEDS").replace(str(one.folder), "HERE") for word in one.words)
            line = f"{one.number:5} {one.target.format}, {one.what}: {words}"
            if outcome.fault:
                kinds[outcome.fault.split("; ")[0]] += 1
                print(f"{line}\n      {outcome.fault}", flush=True)
            if log:
                said = (one.folder / "stderr").read_text("utf-8", "replace").strip().replace("\n", " | ")[:300]
                log.write(
                    f"{kind} {outcome.code} {outcome.seconds:.2f}s {outcome.megabytes:.0f}MB {line} -> {outcome.fault} "
                    f"{said}\n"
                )
                log.flush()
            slowest, largest = max(slowest, (outcome.seconds, line)), max(largest, (outcome.megabytes, line))
    print("\n| document | tried | refused cleanly | accepted | faults |\n| --- | --- | --- | --- | --- |")
    total: Counter[str] = sum(counts.values(), Counter())
    for name, row in [*sorted(counts.items()), ("all", total)]:
        print(f"| {name} | {row['tried']} | {row['refused']} | {row['accepted']} | {row['faults']} |")
    print(f"\nslowest {slowest[0]:.1f} s, largest {largest[0]:.0f} MB, {(time.monotonic() - began) / 60:.1f} minutes")
    print(f"slowest: {slowest[1]}\nlargest: {largest[1]}")
    for kind, count in kinds.most_common(40):
        print(f"{count:5} {kind}")
    return 1 if total["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
