"""A training step of this checkout against another's: two processes that run ``edgeface train`` and take turns.

    python -m benchmarks.train_step --old CHECKOUT [--nets mobilefacenet resnet18 vgg11] [--batch 48] [--rounds 8]

Both train on the same AT&T faces (each several times, so that one epoch has enough steps) at 112 px, with the same seed
and PyTorch, each step timed from the end of the one before: photos, augmentation, passes, clipping, optimizer. CPU time
is that of all threads of the process, kernel included. Prints one JSON document: per net and checkout the
medians and the peak of memory, old over new, and how far apart the losses of the same steps are.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from PIL import Image

from edgeface.data.att import att_folder

STEP = """
import json, os, resource, runpy, sys, time
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

answers = os.fdopen(int(sys.argv.pop(1)), "w")
losses, backward = [], torch.Tensor.backward
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

def noted(loss, *rest, **more):
    losses.append(loss.detach())
    return backward(loss, *rest, **more)

def clocks():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.monotonic(), used.ru_minflt

def turn(*_):
    spent = [now - then for now, then in zip(clocks(), began)]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([*spent, used / 1024, losses[-1].item()]), file=answers, flush=True)
    if not sys.stdin.readline():
        os._exit(0)
    began[:] = clocks()

began = list(clocks())
torch.Tensor.backward = noted
register_optimizer_step_post_hook(turn)
runpy.run_module("edgeface", run_name="__main__")
"""
FIELDS = ("cpu_s", "wall_s", "minor_faults", "peak_mib", "loss")
HERE = Path(__file__).resolve().parents[1]
UNTIMED = 2
"""Steps at the start, in which memory is taken for the first time."""


class Trainer:
    """A run of one checkout that stops after each step."""

    def __init__(self, checkout: Path, arguments: list[str], log: IO[bytes], threads: int) -> None:
        roots = [checkout, *(checkout / part for part in ("runtime", "devices", "export"))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots)), "OMP_NUM_THREADS": str(threads)}
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", STEP, str(write), "train", *arguments],
            env=environment, cwd=checkout, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[write],
        )  # fmt: skip
        os.close(write)
        self.answers, self.rows = os.fdopen(read), list[dict[str, float]]()

    def step(self) -> None:
        """Lets it do one step (the first call waits for the one it does by itself) and keeps what that took."""
        assert self.process.stdin is not None
        if self.rows:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        if not (line := self.answers.readline()):
            raise SystemExit(f"a run ended with exit code {self.process.wait()}; its words are in the log")
        self.rows.append(dict(zip(FIELDS, json.loads(line), strict=True)))

    def medians(self) -> dict[str, float]:
        """Of the timed steps."""
        timed = self.rows[UNTIMED:]
        return {name: statistics.median(row[name] for row in timed) for name in FIELDS[:3]} | {
            "peak_mib": self.rows[-1]["peak_mib"]
        }


def compared(net: str, faces: Path, scratch: Path, options: argparse.Namespace) -> dict[str, object]:
    """The document's part about one net."""
    common = [str(faces), "--backbone", net, "--epochs", "1", "--set", f"batch={options.batch}"]
    runs = {}
    with (scratch / "log").open("wb") as log:
        for name, checkout, settings in (("old", options.old.resolve(), []), ("new", HERE, options.set)):
            given = [word for setting in settings for word in ("--set", setting)]
            arguments = [*common, "-o", str(scratch / f"{net}-{name}"), *given]
            runs[name] = Trainer(checkout, arguments, log, options.threads)
        for number in range(options.rounds + UNTIMED):
            for name in sorted(runs, reverse=bool(number % 2)):
                runs[name].step()
        for run in runs.values():
            assert run.process.stdin is not None
            run.process.stdin.close()
            run.process.wait()
    found = {name: run.medians() for name, run in runs.items()}
    losses = [[row["loss"] for row in run.rows] for run in runs.values()]
    return {
        **found,
        "images_per_cpu_s": {name: options.batch / medians["cpu_s"] for name, medians in found.items()},
        "old_over_new": {name: found["old"][name] / found["new"][name] for name in ("cpu_s", "wall_s", "peak_mib")},
        "losses": losses,
        "largest_difference_of_losses": max(abs(one - other) for one, other in zip(*losses, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, metavar="CHECKOUT", help="the checkout to compare with")
    parser.add_argument("--nets", nargs="+", default=["mobilefacenet", "resnet18", "vgg11"])
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=8, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, in each process")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of this checkout's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photos, faces = sorted(att_folder().glob("*/*.pgm")), Path(scratch, "faces")
        copies = -(-2 * options.batch * (options.rounds + UNTIMED) // len(photos))  # half of them train, at least
        for photo in photos:
            (faces / photo.parent.name).mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                Image.open(photo).save(faces / photo.parent.name / f"{photo.stem}-{copy}.png")
        try:
            found = {net: compared(net, faces, Path(scratch), options) for net in options.nets}
        except SystemExit:
            print(Path(scratch, "log").read_text(), file=sys.stderr)
            raise
    print(json.dumps({"threads": options.threads, "batch": options.batch, "nets": found}, indent=2))


if __name__ == "__main__":
    main()
