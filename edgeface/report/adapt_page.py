"""``report.html`` of an adaptation: what it gained on the photos that were held out, and for whom."""

from __future__ import annotations

import datetime
import importlib.metadata
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.adapting import TRAINING, Adapted
from edgeface.data.dataset import FaceData
from edgeface.evaluation.identification import identify
from edgeface.report.curves import curve_pictures
from edgeface.report.pictures import face_uri
from edgeface.report.run_page import PEOPLE, PROBES, Tile, embedded_rows, training_photos
from edgeface.report.runs import PAGE
from edgeface.templates import environment
from edgeface.training.record import read_record
from edgeface_runtime.checks import shown
from edgeface_runtime.files import write_text

_CHANGES = 12
"""Photos shown of those whose name became right, and of those whose name was lost."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """How held-out photos are named, each after the person whose mean embedding of training photos is nearest."""

    people: list[tuple[str, int, int, int]]
    """Name, held-out photos, named rightly before, named rightly after; the largest change first."""
    gained: list[list[Tile]]
    """A photo that is named rightly now, beside a training photo of the person it was taken for."""
    lost: list[list[Tile]]
    """The same of those that were named rightly before."""

    @property
    def photos(self) -> int:
        """Held out, of people who were trained on."""
        return sum(held for _, held, _, _ in self.people)

    def right(self, when: int) -> int:
        """Photos named rightly before (0) or after (1)."""
        return sum((before, after)[when] for _, _, before, after in self.people)


def write_adapt_page(found: Adapted, data: FaceData, model: str) -> Path:
    """Writes ``report.html`` into the folder of an adaptation, and gives its path.

    Args:
        found: as ``adapt`` gave it.
        data: the faces that it was adapted on.
        model: what was adapted, as ``adapt`` was told.

    Raises:
        UsageError, ModelError: the folder's files cannot be read, or the page not written.
    """
    page, record = found.folder / PAGE, read_record(found.folder / TRAINING)
    photos = record.command.data if record.command else None
    at, photos_at = shlex.quote(shown(found.folder)), shlex.quote(shown(photos)) if photos else "PEOPLE"
    commands = [("Look at the training itself", f"edgeface runs {at}/{TRAINING}")]
    if found.is_better is not False:
        commands.insert(0, ("Make the files for a device", f"edgeface export {at} --data {photos_at} --int8"))
    text = (
        environment(Path(__file__).parent)
        .get_template("adapt.html.j2")
        .render(
            found=found,
            model=model,
            name=shown(found.folder),
            names=named(found.folder, data, model, record.config.system.seed),
            counts={part: len(data.rows(part)) for part in ("train", "val", "test")},
            people=len(data.identities),
            pictures=curve_pictures({"": found.curves}),
            sources=record.sources,
            licence=record.data["licence"],
            commands=commands,
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            version=importlib.metadata.version("edgeface"),
        )
    )
    write_text(page, text, private=True)  # it shows faces
    return page


def named(folder: Path, data: FaceData, model: str, seed: int) -> Names | None:
    """How both models name a sample of the held-out photos; None with fewer than two people to tell apart."""
    rng, probes = np.random.default_rng(seed), data.rows("test")
    people = np.intersect1d(data.labels[probes], data.labels[data.rows("train")])
    people = np.sort(rng.choice(people, min(PEOPLE, len(people)), replace=False))
    probes = probes[np.isin(data.labels[probes], people)]
    probes = np.sort(rng.choice(probes, min(PROBES, len(probes)), replace=False))
    if len(people) < 2 or not len(probes):
        return None
    gallery, truth = training_photos(people, data), data.labels[probes]
    given = []
    for source in (model, folder):
        known, probed = embedded_rows(source, data, gallery, probes)
        given.append(identify(known, data.labels[gallery], probed, truth).named)
    right = [answers == truth for answers in given]

    def tiles(rows: NDArray[np.int64], when: int, word: str) -> list[list[Tile]]:
        found = []
        for at in rows[:_CHANGES]:
            taken = given[when][at]
            photo = gallery[np.flatnonzero(data.labels[gallery] == taken)[0]]
            found.append(
                [
                    (face_uri(data.faces[probes[at]]), data.identities[truth[at]]),
                    (face_uri(data.faces[photo]), f"{word} taken for {data.identities[taken]}"),
                ]
            )
        return found

    rows = [
        (data.identities[person], int(here.sum()), int(right[0][here].sum()), int(right[1][here].sum()))
        for person in np.unique(truth)
        for here in [truth == person]
    ]
    return Names(
        people=sorted(rows, key=lambda row: (-abs(row[3] - row[2]) / row[1], row[3] / row[1], row[0])),
        gained=tiles(np.flatnonzero(~right[0] & right[1]), 0, "before"),
        lost=tiles(np.flatnonzero(right[0] & ~right[1]), 1, "now"),
    )
