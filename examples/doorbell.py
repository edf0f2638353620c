"""A door-bell: greets those it knows and notes when a stranger rang. No picture is stored.

    edgeface enroll family/ --gallery people.gallery
    python doorbell.py people.gallery --camera 0
    python doorbell.py people.gallery --folder /srv/camera       where a camera puts a photo for each movement

Strangers go to ``--log``, a line each: the time and the score of the nearest person. Stop it with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from edgeface import (
    EdgefaceError,
    FaceRecognizer,
    Frame,
    FrameResult,
    Gallery,
    ImageError,
    TrackingConfig,
    open_rgb,
    open_source,
    watch,
)


def arriving(folder: Path, once: bool) -> Iterator[Frame]:
    """The photos of a folder by name, then those that come; ``once``: no others."""
    seen: set[Path] = set()
    numbers = itertools.count()
    while True:
        there = set(folder.iterdir())
        seen &= there  # what was deleted is forgotten, so that memory stays flat
        for photo in sorted(there - seen):
            try:
                pixels = open_rgb(photo)
            except ImageError:
                continue  # not whole yet, or no photo: it is tried again
            seen.add(photo)
            index = next(numbers)
            yield Frame(index, float(index), pixels, photo.name)
        if once:
            return
        time.sleep(0.5)


def attend(results: Iterator[FrameResult], log: Path) -> None:
    """Greets whoever gets a name; notes whoever has had all looks and no name, once."""
    for result in results:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        for event in result.events:
            if event.kind == "named" and event.person.name:
                print(f"{now} hello, {event.person.name}", flush=True)
            if event.kind == "unknown":
                print(f"{now} somebody is at the door", flush=True)
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"{now} unknown, score {event.person.score or 0:.2f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--camera", type=int, help="number of a camera")
    source.add_argument("--folder", type=Path, help="folder that photos come to")
    parser.add_argument("--model", help="exported file; the one that comes with edgeface where there is none")
    parser.add_argument("--log", type=Path, default=Path("strangers.log"))
    parser.add_argument("--once", action="store_true", help="stop when all photos of the folder were looked at")
    arguments = parser.parse_args()
    try:
        recognizer = FaceRecognizer(arguments.model)
        if arguments.folder:
            frames, config = arriving(arguments.folder, arguments.once), TrackingConfig.photos()
        else:
            frames, config = open_source(arguments.camera).frames, TrackingConfig()
        with Gallery(arguments.gallery, recognizer) as gallery, contextlib.suppress(KeyboardInterrupt):
            attend(watch(frames, recognizer, gallery, config=config), arguments.log)
    except EdgefaceError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
