"""The commands that are disturbed, and what each needs, says and may change."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checks import rows_of

Said = Callable[[Path, str, str], list[str]]
"""(folder of the command, stdout, stderr) → what was acknowledged and is not there."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One command line of edgeface, run in a folder that holds ``needs``."""

    line: str
    needs: tuple[str, ...]
    kills: int = 0
    """Of 200."""
    disks: int = 0
    """Of 50."""
    changes: str = ""
    """What of ``needs`` the command is there to change."""
    again: str = ""
    """What is added to repeat it."""
    said: Said = lambda place, out, err: []

    def words(self, *, repeated: bool = False) -> list[str]:
        """The arguments."""
        return shlex.split(f"{self.line} {self.again if repeated else ''}")


def _epochs(place: Path, out: str, err: str, run: str = "out") -> list[str]:
    """An epoch that was reported is in the state that the run resumes from."""
    from safetensors import safe_open

    told = max(map(int, re.findall(r"^epoch (\d+)/", err, re.MULTILINE)), default=0)
    if not told:
        return []
    with safe_open(place / run / "last.safetensors", "numpy") as file:
        saved = len(json.loads(file.metadata()["edgeface"])["curves"])
    return [f"epoch {told} was reported and {saved} are saved"] if saved < told else []


def _adapted(place: Path, out: str, err: str) -> list[str]:
    return _epochs(place, out, err, "out/training")


def _snapshots(place: Path, out: str, err: str) -> list[str]:
    """A picture that an event names is there."""
    rows = [json.loads(line) for line in out.splitlines() if line.endswith("}")]
    told = {row["snapshot"] for row in rows if row["snapshot"]}
    return [f"{name} was told of and is not there" for name in sorted(told) if not (place / name).exists()]


def _drawn(place: Path, out: str, err: str) -> list[str]:
    """A photo whose faces were told is drawn."""
    rows = [json.loads(line) for line in out.splitlines() if line.endswith("}")]
    names = {Path(row["photo"]).with_suffix("").as_posix() for row in rows}
    drawn = {path.relative_to(place / "out").as_posix().split(".")[0] for path in (place / "out").rglob("*.jpg")}
    return [f"{name} was told of and is not drawn" for name in sorted(names - drawn)]


def _removed(place: Path, out: str, err: str) -> list[str]:
    left = [row for row in rows_of(place / "people.gallery") if row[0] == "s2"]
    return ["s2 was said to be removed"] if "removed" in out and left else []


VERBS = {
    "data prepare": Verb(line="data prepare photos out --workers 1", needs=("photos",), kills=28, disks=8),
    "train": Verb(
        line="train prepared -o out --backbone mobilefacenet-tiny --epochs 3 --set batch_size=8",
        needs=("prepared",),
        again="--resume",
        kills=24,
        disks=6,
        said=_epochs,
    ),
    "adapt": Verb(
        line="adapt prepared -o out --model run --epochs 1 --set batch_size=8",
        needs=("prepared", "run"),
        again="--resume",
        kills=12,
        disks=4,
        said=_adapted,
    ),
    "export": Verb(
        line="export run --data prepared --format onnx --max-drop 100 --min-cosine -1 --faces 8 -o out",
        needs=("prepared", "run"),
        kills=14,
        disks=6,
    ),
    "enroll": Verb(
        line="enroll more --force --gallery people.gallery",
        needs=("more", "people.gallery"),
        changes="people.gallery",
        kills=32,
        disks=5,
    ),
    "gallery remove": Verb(
        line="gallery remove people.gallery s2",
        needs=("people.gallery",),
        changes="people.gallery",
        kills=32,
        disks=4,
        said=_removed,
    ),
    "group": Verb(line="group few -o out", needs=("few",), kills=26, disks=5),
    "run --video": Verb(
        line="run --video door.avi -g people.gallery -o out.mp4 --snapshots snaps --json-lines",
        needs=("door.avi", "people.gallery"),
        kills=14,
        disks=3,
        said=_snapshots,
    ),
    "run --folder": Verb(
        line="run --folder few -g people.gallery -o out --json-lines",
        needs=("few", "people.gallery"),
        kills=18,
        disks=3,
        said=_drawn,
    ),
    "eval": Verb(
        line="eval run --data prepared --report page.html",
        needs=("prepared", "run"),
        disks=4,
    ),
    "data split": Verb(line="data split prepared --seed 3", needs=("prepared",), changes="prepared", disks=2),
}
assert sum(verb.kills for verb in VERBS.values()) == 200
assert sum(verb.disks for verb in VERBS.values()) == 50
