"""``data prepare``: a folder of photos becomes a folder of aligned, labelled, described faces.

The prepared folder holds ``faces/<identity>/<photo>.png``, ``faces.csv``, ``rejected.csv`` and the
card ``dataset.json``. The work is cut into tasks of a few photos; each finished task leaves its
crops and one journal file under ``.prepare``, written beside its name and renamed, so that a killed
run goes on where it stopped and ends with the same bytes. Who computes a task (this process, its
workers, a Dask cluster) does not matter, because only this process writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edgeface.data import workers
from edgeface.data.crops import Crop, CropSettings, Task, crop_task, detector_sha256
from edgeface.data.duplicates import require
from edgeface.data.finish import Drop, finish, load_record
from edgeface.data.readers import Skipped, SourceListing, read
from edgeface.data.table import Card, CardHead, read_card, write_beside
from edgeface.progress import Progress
from edgeface_runtime.detection.find import load_detector
from edgeface_runtime.errors import UsageError
from edgeface_runtime.files import is_unused, remove_leftovers
from edgeface_runtime.images import shown

PHOTOS_PER_TASK = 32


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of ``prepare`` that decide what the prepared folder holds."""

    crops: CropSettings = dataclasses.field(default_factory=CropSettings)
    drop: tuple[Drop, ...] = ()
    labels: Path | None = None
    depth: int = 1
    licence: str = "unknown"
    name: str = ""
    """Empty: the source folder's name."""


def prepare(
    src: str | Path,
    dst: str | Path,
    options: Options | None = None,
    *,
    processes: int = 1,
    scheduler: str | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Card:
    """Finds, aligns, describes and writes the faces of all photos below ``src``.

    Args:
        src: the photos, in any layout that ``readers.read`` knows.
        dst: the prepared folder: new, or left by the same command when it was stopped.
        options: what to keep and how.
        processes: worker processes; 1 works in this one.
        scheduler: address of a Dask scheduler whose workers see ``src``; replaces ``processes``.
        progress: called with what is done so far, the number of all, and what they are: photos, then groups of them
            read, faces compared and groups listed.

    Returns:
        The card, as in ``dataset.json``.

    Raises:
        UsageError: no photo, ``dst`` is not empty or holds other work, no space left, a worker died.
        ModelError: the detector cannot be opened.
        MissingExtraError: imagehash or SciPy is absent (extra ``data``), or with a scheduler distributed (``dask``).
    """
    src, dst, options = Path(src), Path(dst), options or Options()
    # Here once, so that an absent package or a wrong name is said before any work begins.
    require("dask" if scheduler else "data")
    load_detector(options.crops.detector, threads=1)
    listing = read(src, labels=options.labels, depth=options.depth)
    if dst.resolve() == src.resolve() or src.resolve() in dst.resolve().parents:
        raise UsageError(f"{shown(dst)}: lies inside the photos' folder; name one outside it")
    tasks = _tasks(listing, options.crops)
    keys = [_key(task, options.crops) for task in tasks]
    with _claimed(dst) as journal:
        whole = hashlib.sha256("".join((*keys, repr(options), repr(listing.skipped))).encode()).hexdigest()
        if (finished := dst / ".prepare" / "finished").exists():
            if finished.read_text() != whole:
                raise UsageError(
                    f"{shown(dst)}: holds faces of other photos or options; name a new folder or delete it"
                )
            shutil.rmtree(journal)  # made just now, or left where a kill came between the mark and its removal
            return read_card(dst)
        _run(tasks, keys, dst, journal, processes, scheduler, progress)
        records = [journal / f"{key}.json" for key in keys]
        with _writing(dst):
            card = finish(dst, records, listing, options.drop, _head(options, src), progress)
            write_beside(finished, whole.encode(), dst / ".prepare")
            shutil.rmtree(journal)
    return card


def _run(
    tasks: list[Task],
    keys: list[str],
    dst: Path,
    journal: Path,
    processes: int,
    scheduler: str | None,
    progress: Progress,
) -> None:
    """Computes the tasks that have no intact record yet and writes their crops and records."""
    open_tasks = [number for number, key in enumerate(keys) if not _intact(journal / f"{key}.json", dst)]
    total = sum(len(task.photos) for task in tasks)
    done = total - sum(len(tasks[number].photos) for number in open_tasks)
    progress(done, total, "photos")
    work = [tasks[number] for number in open_tasks]
    with workers.results(crop_task, work, processes, scheduler) as results:
        for position, (crops, skipped) in results:
            number = open_tasks[position]
            with _writing(dst):
                _record(dst, journal / f"{keys[number]}.json", crops, skipped)
            done += len(tasks[number].photos)
            progress(done, total, "photos")


def _record(dst: Path, record: Path, crops: list[Crop], skipped: list[Skipped]) -> None:
    rows = []
    for crop in crops:
        write_beside(dst / crop.path, crop.png, dst / ".prepare")
        rows.append({**vars(crop), "details": crop.details.hex(), "png": None})
    document = {"crops": rows, "skipped": [vars(skip) for skip in skipped]}
    write_beside(record, json.dumps(document).encode(), dst / ".prepare")


def _intact(record: Path, dst: Path) -> bool:
    """Whether a task's record is there and each of its crops as it was written (a power cut may leave holes)."""
    try:
        crops = load_record(record)["crops"]
        return all(hashlib.sha256((dst / crop["path"]).read_bytes()).hexdigest() == crop["sha256"] for crop in crops)
    except (OSError, ValueError, UsageError):
        return False


def _tasks(listing: SourceListing, settings: CropSettings) -> list[Task]:
    """The photos in order, with a stem for each that no other photo has (``a.jpg`` beside ``a.png``)."""
    taken: set[str] = set()
    stems = []
    for photo in listing.photos:
        base = stem = f"{photo.identity}/{shown(photo.path.stem)}"
        number = 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{base}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    starts = range(0, len(stems), PHOTOS_PER_TASK)
    return [
        Task(listing.photos[start : start + PHOTOS_PER_TASK], tuple(stems[start : start + PHOTOS_PER_TASK]), settings)
        for start in starts
    ]


def _key(task: Task, settings: CropSettings) -> str:
    """Names a task's record by all that decides its crops, so that after a change it is worked anew."""
    parts: list[object] = [version("edgeface"), dataclasses.astuple(settings), detector_sha256(settings.detector)]
    for photo, stem in zip(task.photos, task.stems, strict=True):
        try:
            status = photo.path.stat()
            parts.append((photo.source, photo.identity, stem, status.st_size, status.st_mtime_ns))
        except OSError as error:
            parts.append((photo.source, photo.identity, stem, error.errno))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _head(options: Options, src: Path) -> CardHead:
    """What the card says of the options: nothing that names this machine's folders."""
    detector = options.crops.detector
    return {
        "name": options.name or shown(src.resolve().name),
        "licence": options.licence,
        "settings": {
            "detector": Path(detector).name,
            "detector_sha256": detector_sha256(detector),
            "size": options.crops.size,
            "faces": options.crops.faces,
            "drop": {drop.name: drop.limit for drop in options.drop},
        },
    }


@contextlib.contextmanager
def _claimed(dst: Path) -> Iterator[Path]:
    """The journal's folder in ``dst``, held against a second ``prepare``."""
    mark = dst / ".prepare"
    if dst.exists() and not dst.is_dir():
        raise UsageError(f"{shown(dst)}: is a file; name a folder for the faces")
    if dst.is_dir() and not mark.is_dir() and not is_unused(dst):
        raise UsageError(f"{shown(dst)}: is not empty and was not made by prepare; name a new folder")
    with _writing(dst):
        journal = mark / "journal"
        journal.mkdir(parents=True, exist_ok=True)
        lock = (mark / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{shown(dst)}: another prepare is at work on it; wait for it or stop it") from error
        remove_leftovers(mark)
        yield journal


@contextlib.contextmanager
def _writing(dst: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(
            f"{shown(dst)}: cannot write: {reason}; mend it and run the same command again to go on"
        ) from error
