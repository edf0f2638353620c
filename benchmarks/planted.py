"""Plants mistakes in galleries and counts which of them ``check_gallery`` names, and what it names besides.

    python -m benchmarks.planted FOLDER [--each 10] [--draws 10]

``FOLDER`` holds ``<name>/<photo>``. Photos that `enroll` would refuse for their quality are left out. Each draw takes
other photos of each person and plants five photos under a wrong name, five crops beside a face (the back of a head),
five people under two names and five pairs of people under one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeface.photo_folders import named_photos
from edgeface_runtime import Face, FaceRecognizer, ImageError, Photo, check_gallery, open_rgb
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


def plant(drawn: Drawn, beside: np.ndarray, rng: np.random.Generator) -> list[tuple[str, set[int], set[str]]]:
    """Changes a gallery; gives each mistake's kind, photos and names."""
    names = np.array(drawn.names, dtype=object)
    people = list(rng.permutation(sorted(set(drawn.names))))
    rows_of = {person: np.flatnonzero(names == person) for person in people}
    planted = []
    for _ in range(EACH_KIND):
        one, two = people.pop(), people.pop()
        names[rows_of[one][0]] = two
        planted.append(("wrong name", {int(rows_of[one][0])}, {two}))
        one = people.pop()
        drawn.rows[rows_of[one][0]] = beside[rng.integers(len(beside))]
        planted.append(("back of a head", {int(rows_of[one][0])}, {one}))
        one = people.pop()
        names[rows_of[one][: len(rows_of[one]) // 2]] = f"{one} 2"
        planted.append(("two names", set(), {one, f"{one} 2"}))
        one, two = people.pop(), people.pop()
        names[rows_of[two]] = one
        planted.append(("two people", set(map(int, rows_of[two])), {one}))
    drawn.names = list(names)
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--each", type=int, default=10, help="photos a person")
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    recognizer = FaceRecognizer(options.model)
    names, rows, beside = embedded(recognizer, options.folder)
    print(f"{len(rows)} good photos of {len(set(names))} people, {len(beside)} crops beside a face")
    print("| draw | photos | named without a mistake | mistakes named | missed | named besides |")
    print("| ---: | ---: | ---: | ---: | --- | ---: |")
    for draw in range(options.draws):
        rng = np.random.default_rng(draw)
        picked = []
        for person in sorted(set(names)):
            own = rng.permutation([row for row, name in enumerate(names) if name == person])
            picked.extend(own[: options.each].tolist() if len(own) >= options.each else [])
        drawn = Drawn([names[row] for row in picked], rows[picked])
        quiet = len(check_gallery(drawn, recognizer).faults)
        planted = plant(drawn, beside, rng)
        faults = check_gallery(drawn, recognizer).faults
        explained: set[int] = set()
        missed = []
        for kind, photos, who in planted:
            fit = {
                number
                for number, fault in enumerate(faults)
                if (photos & set(fault.photos) and fault.name in who)
                or (not photos and {fault.name, fault.other} == who)
            }
            explained |= fit
            missed += [] if fit else [kind]
        said = f"{len(planted) - len(missed)} of {len(planted)} | {', '.join(missed)} | {len(faults) - len(explained)}"
        print(f"| {draw} | {len(picked)} | {quiet} | {said} |", flush=True)


if __name__ == "__main__":
    main()
