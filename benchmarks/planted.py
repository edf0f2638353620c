"""Plants mistakes in galleries and counts which of them ``check_gallery`` names, and what it names besides.

    python -m benchmarks.planted FOLDER [--each 10] [--draws 10]

``FOLDER`` holds ``<name>/<photo>``. Photos that `enroll` would refuse for their quality are left out. Each draw takes
other photos of each person and plants five photos under a wrong name, five crops beside a face (the back of a head),
five people under two names and five pairs of people under one. What is named besides is counted in two parts: photos
of ``--hidden``, a list of ``<name>/<photo>`` in which a face is covered, and the rest, which is false. The list of Pins
was made by looking at all its faces, without their scores: dark or tinted glasses, goggles, masks, veils, paint, hands.
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


def embedded(recognizer: FaceRecognizer, folder: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Names, files and embeddings of the good photos, and embeddings of crops beside some faces."""
    names, files, rows, beside = [], [], [], []
    for number, (name, path) in enumerate(named_photos([folder]).photos):
        try:
            sample = examine(recognizer, path, "largest")
        except ImageError:
            continue
        if sample.concerns:
            continue
        names.append(name)
        files.append(f"{path.parent.name}/{path.name}")
        rows.append(sample.embedding)
        if number % 20 == 0:
            pixels = open_rgb(path)
            face = max(recognizer.faces(pixels), key=lambda face: face.score)
            width, height = face.box[2:] - face.box[:2]
            for shift in ((0, -0.9 * height), (0.9 * width, -0.2 * height), (-0.9 * width, -0.3 * height)):
                points = face.landmarks + np.array(shift, np.float32)
                if (points > 0).all():
                    beside.append(recognizer.embed(pixels, [Face(face.box, face.score, points)])[0])
    return names, files, np.stack(rows), np.stack(beside)


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
    parser.add_argument("--each", type=int, default=10, help="photos a person")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--hidden", type=Path, default=Path(__file__).with_name("pins_hidden.txt"))
    options = parser.parse_args()
    recognizer = FaceRecognizer(options.model)
    covered = set(options.hidden.read_text().split())
    names, files, rows, beside = embedded(recognizer, options.folder)
    of_list = sum(file in covered for file in files)
    print(
        f"{len(rows)} good photos of {len(set(names))} people, {of_list} of hidden faces; {len(beside)} beside a face"
    )
    print("| draw | photos | named | of them, with what it is | missed | named besides | of these hidden | false |")
    print("| ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for draw in range(options.draws):
        rng = np.random.default_rng(draw)
        picked: list[int] = []
        for person in sorted(set(names)):
            own = rng.permutation([row for row, name in enumerate(names) if name == person])
            picked.extend(own[: options.each].tolist() if len(own) >= options.each else [])
        drawn = Drawn([names[row] for row in picked], rows[picked])
        planted = plant(drawn, beside, rng)
        faults = check_gallery(drawn, recognizer).faults
        missed = [mistake.mistake for mistake in planted if not any(map(mistake.named_by, faults))]
        said = sum(any(map(mistake.explained_by, faults)) for mistake in planted)
        besides = [fault for fault in faults if not any(mistake.concerns(fault) for mistake in planted)]
        hidden = sum(all(files[picked[photo]] in covered for photo in fault.photos) for fault in besides)
        counts = f"{len(planted) - len(missed)} of {len(planted)} | {said} | {', '.join(missed)}"
        print(
            f"| {draw} | {len(picked)} | {counts} | {len(besides)} | {hidden} | {len(besides) - hidden} |", flush=True
        )


if __name__ == "__main__":
    main()
