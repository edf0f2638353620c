"""Plants mistakes in galleries and counts which of them ``check_gallery`` names, and what it names besides.

    python -m benchmarks.planted FOLDER [--each 10] [--draws 10] [--first 0] [--strangers 0] [--cache FILE]

``FOLDER`` holds ``<name>/<photo>``. Photos that `enroll` would refuse for their quality are left out. Each draw takes
other photos of each person and plants five photos under a wrong name, five crops beside a face (the back of a head),
five people under two names and five pairs of people under one. A mistake is named where a finding that is a mistake
names it; advice does not count, but for the column that says how many photos the check calls hard to recognize.
With ``--strangers``, a photo of somebody who is not enrolled is put under that many further names. ``--cache`` keeps a
folder's embeddings, which take some minutes, in a file, for further draws.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeface.photo_folders import named_photos
from edgeface_runtime import Face, FaceRecognizer, GalleryFinding, ImageError, Photo, check_gallery, open_rgb
from edgeface_runtime.gallery.enrollment import examine

EACH_KIND = 5


@dataclass
class Drawn:
    """A gallery in memory."""

    names: list[str]
    rows: np.ndarray
    path: Path = Path("drawn")

    def require(self, model: object) -> None:
        pass

    def contents(self) -> tuple[list[Photo], np.ndarray]:
        order = sorted(range(len(self.names)), key=lambda row: self.names[row])
        return [Photo(row, self.names[row], "", "", 100, 112, 0, 0) for row in order], self.rows[order]


def embedded(recognizer: FaceRecognizer, folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names and embeddings of the good photos, and embeddings of crops beside some faces."""
    names, rows, beside = [], [], []
    for number, (name, path) in enumerate(named_photos([folder]).photos):
        try:
            sample = examine(recognizer, path, "largest")
        except ImageError:
            continue
        if sample.concerns:
            continue
        names.append(name)
        rows.append(sample.embedding)
        if number % 20 == 0:
            pixels = open_rgb(path)
            face = max(recognizer.faces(pixels), key=lambda face: face.score)
            width, height = face.box[2:] - face.box[:2]
            for shift in ((0, -0.9 * height), (0.9 * width, -0.2 * height), (-0.9 * width, -0.3 * height)):
                points = face.landmarks + np.array(shift, np.float32)
                if (points > 0).all():
                    beside.append(recognizer.embed(pixels, [Face(face.box, face.score, points)])[0])
    return names, np.stack(rows), np.stack(beside)


def cached(
    recognizer: FaceRecognizer, detector: str, folder: Path, cache: Path | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """What ``embedded`` gives, from a file that an earlier call wrote of this folder, model and detector."""
    contract = recognizer.model.contract
    made_of = [str(folder.resolve()), contract.name, contract.precision, str(contract.parent_sha256), detector]
    if cache and cache.exists():
        with np.load(cache) as kept:
            if kept["made_of"].tolist() != made_of:
                raise SystemExit(f"{cache} is of {' '.join(kept['made_of'])}; name another file")
            return kept["names"].tolist(), kept["rows"], kept["beside"]
    names, rows, beside = embedded(recognizer, folder)
    if cache:
        np.savez(cache, made_of=made_of, names=names, rows=rows, beside=beside)
    return names, rows, beside


@dataclass
class Planted:
    """A mistake, and what names it."""

    mistake: str
    kind: str
    """Of the finding that says what it is."""
    name: str
    other: str | None
    photos: set[int]

    def concerns(self, found: GalleryFinding) -> bool:
        """Whether a finding is about the pair of names, or one of the photos under the name that it has."""
        if self.kind == "two_names":
            return {found.name, found.other} == {self.name, self.other}
        return found.name == self.name and bool(self.photos & set(found.photos))

    def named_by(self, found: GalleryFinding) -> bool:
        """Whether a finding names it; one photo that is unlike the others is too little for two people."""
        return self.concerns(found) and (self.kind != "two_people" or found.kind == "two_people")

    def explained_by(self, found: GalleryFinding) -> bool:
        """Whether it also says what is wrong, and whose photo it is where that person is enrolled."""
        return self.named_by(found) and found.kind == self.kind and self.other in (None, found.name, found.other)


def plant(drawn: Drawn, beside: np.ndarray, rng: np.random.Generator) -> list[Planted]:
    """Changes a gallery; gives the mistakes."""
    names = np.array(drawn.names, dtype=object)
    people = list(map(str, rng.permutation(sorted(set(drawn.names)))))
    rows_of = {person: np.flatnonzero(names == person).tolist() for person in people}
    planted = []
    for _ in range(EACH_KIND):
        one, two = people.pop(), people.pop()
        names[rows_of[one][0]] = two
        planted.append(Planted("wrong name", "wrong_name", two, one, {rows_of[one][0]}))
        one = people.pop()
        drawn.rows[rows_of[one][0]] = beside[rng.integers(len(beside))]
        planted.append(Planted("back of a head", "unlike", one, None, {rows_of[one][0]}))
        one = people.pop()
        names[rows_of[one][: len(rows_of[one]) // 2]] = f"{one} 2"
        planted.append(Planted("two names", "two_names", one, f"{one} 2", set()))
        one, two = people.pop(), people.pop()
        names[rows_of[two]] = one
        # Whose photos are the smaller group is named: either person's.
        planted.append(Planted("two people", "two_people", one, None, {*rows_of[one], *rows_of[two]}))
    drawn.names = list(names)
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--detector", default="yunet")
    parser.add_argument("--each", type=int, default=10, help="photos a person")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw: others, others are drawn")
    parser.add_argument("--strangers", type=int, default=0, help="photos of people who are not enrolled, a draw")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="of the folder's embeddings, written where it is not"
    )
    options = parser.parse_args()
    recognizer = FaceRecognizer(options.model, options.detector)
    names, rows, beside = cached(recognizer, options.detector, options.folder, options.cache)
    print(f"{len(rows)} good photos of {len(set(names))} people; {len(beside)} beside a face")
    print("| draw | photos | named | of them, with what it is | missed | besides | hard to recognize | strangers |")
    print("| ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for draw in range(options.first, options.first + options.draws):
        print(
            f"| {draw} | {measured(recognizer, names, rows, beside, options.each, draw, options.strangers)} |",
            flush=True,
        )


def measured(
    recognizer: FaceRecognizer,
    names: list[str],
    rows: np.ndarray,
    beside: np.ndarray,
    each: int,
    draw: int,
    strangers: int = 0,
) -> str:
    """The row of a draw."""
    rng = np.random.default_rng(draw)
    of = {person: [row for row, name in enumerate(names) if name == person] for person in sorted(set(names))}
    enrolled = [person for person in of if len(of[person]) >= each]
    if strangers:
        left_out = list(map(str, rng.permutation(enrolled)[:strangers]))
        enrolled = [person for person in enrolled if person not in left_out]
    picked = [row for person in enrolled for row in rng.permutation(of[person])[:each].tolist()]
    drawn = Drawn([names[row] for row in picked], rows[picked])
    planted = plant(drawn, beside, rng)
    known = {name for mistake in planted for name in (mistake.name, mistake.other)}
    free = [name for name in enrolled if name not in known and drawn.names.count(name) == each]
    strange = []
    for person in left_out if strangers else ():
        name = free.pop()
        place = drawn.names.index(name)
        drawn.rows[place] = rows[rng.choice(of[person])]
        strange.append(Planted("stranger", "unlike", name, None, {place}))
    found = check_gallery(drawn, recognizer)
    missed = [mistake.mistake for mistake in planted if not any(map(mistake.named_by, found.faults))]
    said = sum(any(map(mistake.explained_by, found.faults)) for mistake in planted)
    besides = [fault for fault in found.faults if not any(mistake.concerns(fault) for mistake in planted + strange)]
    hard = sum(len(finding.photos) for finding in found.findings if finding.kind == "hard_face")
    named = f"{len(planted) - len(missed)} of {len(planted)} | {said} | {', '.join(missed)}"
    seen = sum(any(map(mistake.named_by, found.faults)) for mistake in strange)
    return f"{len(picked)} | {named} | {len(besides)} | {hard} | {seen} of {len(strange)}"


if __name__ == "__main__":
    main()
