"""Names people and strangers through a gallery, as an app would, and counts the false accepts against the promise.

    python -m benchmarks.open_set MODEL --att ORL_faces --pins pins --people 50 --strangers congress/ --strangers aaf/

Needs nothing but the runtime. Enrols five photos each of the people of AT&T and of the first ``people`` of Pins, and
then identifies other photos of theirs, and photos of people whom it does not know: the other people of Pins, and a
thousand photos, evenly spaced by name, of each folder of strangers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeface_runtime import EnrollmentError, FaceRecognizer, Gallery

ENROLLED = 5
ASKED = 15
STRANGERS = 1000
FARS = (1e-2, 1e-3)


def photos_of(folder: Path, pattern: str) -> list[tuple[str, list[Path]]]:
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(person.name, sorted(person.glob(pattern))) for person in people if any(person.glob(pattern))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--att", type=Path, required=True)
    parser.add_argument("--pins", type=Path, required=True)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--strangers", type=Path, action="append", default=[], help="folder of photos; may repeat")
    options = parser.parse_args()
    recognizer = FaceRecognizer(options.model)
    pins = photos_of(options.pins, "*.jpg")
    sets = {"AT&T": photos_of(options.att, "*.pgm"), "Pins": pins[: options.people]}
    with TemporaryDirectory() as folder, Gallery.open(Path(folder) / "people.gallery", recognizer) as gallery:
        refused = 0
        rest: dict[str, list[tuple[str, Path]]] = {}
        for kind, people in sets.items():
            for name, photos in people:
                taken = 0
                for photo in photos:
                    if taken == ENROLLED:
                        break
                    try:
                        gallery.enroll(f"{kind} {name}", photo)
                    except EnrollmentError:
                        refused += 1
                        continue
                    taken += 1
                    photos = [other for other in photos if other != photo]
                rest.setdefault(kind, []).extend((f"{kind} {name}", photo) for photo in photos[-ASKED:])
        others = [photo for _, photos in pins[options.people : 2 * options.people] for photo in photos[-ASKED:]]
        unknown = {"strangers, Pins": others}
        for path in options.strangers:
            photos = sorted(path.glob("*.jpg"))
            unknown[f"strangers, {path.name}"] = photos[:: max(1, len(photos) // STRANGERS)][:STRANGERS]
        rest |= {kind: [("", photo) for photo in photos] for kind, photos in unknown.items()}
        print(f"{len(gallery)} photos of {sum(map(len, sets.values()))} people enrolled, {refused} refused")
        limits = {far: recognizer.threshold(far, len(gallery)) for far in FARS}
        print("| asked | photos | no face |", *(f"FAR {far:g}: right | wrong name | unknown |" for far in FARS))
        print("| --- | --- | --- |" + " --- | --- | --- |" * len(FARS))
        for kind, asked in rest.items():
            counts = {far: [0, 0, 0] for far in FARS}
            missed = 0
            for name, photo in asked:
                # With a threshold of −1 each face gets the nearest name; whether the score suffices is asked below.
                found = recognizer.identify(photo, gallery, threshold=-1)
                if not found:
                    missed += 1
                    continue
                face = max(found, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
                for far, limit in limits.items():
                    is_named = face.score is not None and face.score >= limit.value
                    counts[far][0 if is_named and face.name == name else 1 if is_named else 2] += 1
            seen = len(asked) - missed
            cells = [f"{100 * part / seen:.2f} %" for far in FARS for part in counts[far]]
            print(f"| {kind} | {len(asked)} | {missed} | {' | '.join(cells)} |", flush=True)
        for far, limit in limits.items():
            word = ", extrapolated" if limit.extrapolated else ""
            print(f"FAR {far:g} over {len(gallery)} photos: threshold {limit.value:.4f}{word}")


if __name__ == "__main__":
    main()
