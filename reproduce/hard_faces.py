"""Fits what tells hidden faces from strangers by their embeddings, and writes it into the shipped files' contracts.

    python -m reproduce.hard_faces gather photos/people --beside Celeb 20 --beside congress 12 -o hard_faces.npz
    python -m reproduce.hard_faces stamp runtime/edgeface_runtime/models/mobilefacenet.int8.* --faces hard_faces.npz

``gather`` takes folders of ``<name>/<photo>``, from every fourth photo of which crops beside the face are taken too, as
from every STEP-th photo of each further folder; a run that was stopped goes on when it is given again. The shipped
files' people are those of ``reproduce.reference_models photos``, of CelebA and Families in the Wild, none of whom is in
LFW or Pins; the further backgrounds are of CelebA in the wild and of the US Congress.

Two linear functions of an embedding, as a recognizer's embeddings tell how well a face can be recognized (Deng et al.,
"Harnessing Unrecognizable Faces for Improving Face Recognition", WACV 2023; Boutros et al., "CR-FIQA", CVPR 2023):

- ``agreement``, by ridge regression: how far a photo's mean score with its person's other photos lies above the
  person's median. Half of the photos it is fitted on have the face covered: dark glasses, a mask, a hand, paint, a
  half.
- ``no_face``, by logistic regression: faces, covered or not, against crops beside a face.

Their zeros are set on people, and on folders of crops, that were not fitted on, in turn: ``HARD`` of the untouched
photos, and at most ``TAKEN`` of the crops beside a face, count as hard to recognize. The files of one model get the
same numbers, those of the first, for they share galleries.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from edgeface.photo_folders import named_photos
from edgeface_export.formats import FORMATS
from edgeface_runtime import FaceRecognizer, ImageError, Model, load, open_rgb
from edgeface_runtime.align import TEMPLATE, align
from edgeface_runtime.contract import HardFaces, read_contract, seal
from edgeface_runtime.detection.find import DETECTORS, find_faces
from edgeface_runtime.faces import Detector
from edgeface_runtime.files import replacing
from edgeface_runtime.quality import face_size
from edgeface_runtime.thresholds import threshold_for

HARD = 0.03
"""Of untouched photos, so many are hard to recognize,"""
TAKEN = 0.005
"""and of crops beside a face, so many would be by ``no_face`` alone."""
EVERY = 4
"""Beside every fourth face crops are taken."""
SIDE = 112
PART = 500
"""Photos whose faces ``gather`` writes at a time."""
_RIDGE = 5.0
_DIGITS = 4

Faces = NDArray[np.uint8]
Rows = NDArray[np.float32]
Color = tuple[int, int, int]


def gather(people: Sequence[Path], further: Sequence[tuple[Path, int]], output: Path) -> None:
    """Writes aligned faces with their names, and crops beside faces with the number of the folder that they are of.

    What was found in each ``PART`` photos is kept in a folder beside ``output`` until all is written, and taken from
    there when the same command is given again.
    """
    named = [(f"{folder.name}/{name}", path) for folder in people for name, path in named_photos([folder]).photos]
    sources = [[(name, path, number % EVERY == 0) for number, (name, path) in enumerate(named)]]
    sources += [[("", path, True) for path in sorted(folder.rglob("*.jp*g"))[::step]] for folder, step in further]
    detector = FaceRecognizer(detector=DETECTORS[0]).detector
    parts = output.with_name(f"{output.stem}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    names, faces, beside, numbers = [], [], [], []
    for number, source in enumerate(sources):
        for start in range(0, len(source), PART):
            photos = source[start : start + PART]
            part = parts / f"{sha256(repr((DETECTORS[0], photos)).encode()).hexdigest()[:16]}.npz"
            if not part.exists():
                with replacing(part) as unfinished:
                    found_faces, found_names, crops = _looked_at(photos, detector)
                    np.savez(unfinished, faces=found_faces, names=found_names, beside=crops)
                print(f"{start + len(photos)} of {len(source)} photos of source {number}", flush=True)
            with np.load(part) as found:
                names.append(found["names"])
                faces.append(found["faces"])
                beside.append(found["beside"])
            numbers += [number] * len(beside[-1])
    with replacing(output) as unfinished:
        np.savez(
            unfinished,
            faces=np.concatenate(faces),
            names=np.concatenate(names),
            beside=np.concatenate(beside),
            sources=np.array(numbers),
        )
    shutil.rmtree(parts)


def _looked_at(photos: Sequence[tuple[str, Path, bool]], detector: Detector) -> tuple[Faces, NDArray[np.str_], Faces]:
    """The largest face of each photo that has a name, and crops beside it where these are asked for."""
    faces, names, beside = [], [], []
    for name, path, crops in photos:
        try:
            pixels = open_rgb(path)
        except ImageError:
            continue
        if not (found := find_faces(pixels, detector)[0]):
            continue
        face = max(found, key=face_size)
        if name:
            faces.append(align(pixels, face.landmarks, SIDE))
            names.append(name)
        if crops:
            beside.extend(crops_beside(pixels, face.box, face.landmarks))
    nothing = np.empty((0, SIDE, SIDE, 3), np.uint8)
    return (
        np.stack(faces) if faces else nothing,
        np.array(names, dtype=np.str_),
        np.stack(beside) if beside else nothing,
    )


def crops_beside(pixels: Faces, box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> list[Faces]:
    """Crops above, left and right of a face whose points would lie below and right of the photo's corner."""
    width, height = box[2:] - box[:2]
    moved = [
        landmarks + np.array([right * width, down * height], np.float32)
        for right, down in ((0, -0.9), (0.9, -0.2), (-0.9, -0.3), (0.8, 0.3), (-0.8, 0.2))
    ]
    return [align(pixels, points, SIDE) for points in moved if (points > 0).all()]


def _painted(crop: Faces, rng: np.random.Generator, draw: Callable[[ImageDraw.ImageDraw], None], soft: float) -> Faces:
    image = Image.fromarray(crop)
    layer = Image.new("RGBA", image.size)
    draw(ImageDraw.Draw(layer))
    layer = layer.filter(ImageFilter.GaussianBlur(soft))
    image.paste(layer, (0, 0), layer)
    return np.asarray(image)


def _shade(rng: np.random.Generator, base: NDArray[np.float64] | tuple[float, ...], spread: float) -> Color:
    red, green, blue = np.clip(rng.normal(base, spread), 0, 255).astype(int).tolist()
    return red, green, blue


def dark_glasses(crop: Faces, rng: np.random.Generator) -> Faces:
    """Two dark lenses over the eyes, now and then see-through, with a bridge and temples."""
    width = rng.uniform(13, 19)
    height, down, opaque = (
        width * rng.uniform(0.6, 1),
        rng.uniform(-2, 3),
        int(255 * rng.choice([1, 1, 0.95, 0.85, 0.7])),
    )
    color = _shade(rng, (rng.choice([8, 20, 35, 50]),) * 3, float(rng.choice([0, 5, 15])))
    eyes, round_ = TEMPLATE[:2] + rng.normal(0, 1, 2), rng.random() < 0.5

    def draw(on: ImageDraw.ImageDraw) -> None:
        for x, y in eyes:
            box = [x - width, y - height + down, x + width, y + height + down]
            if round_:
                on.ellipse(box, fill=(*color, opaque))
            else:
                on.rounded_rectangle(box, radius=5, fill=(*color, opaque))
        bar = eyes[0, 1] + down - 0.3 * height
        for start, end in ((40, 72), (0, 28), (84, SIDE)):
            on.line([start, bar, end, bar], fill=(*color, 255), width=2)

    return _painted(crop, rng, draw, 0.6)


def mask(crop: Faces, rng: np.random.Generator) -> Faces:
    """Cloth with folds over nose, mouth and chin."""
    cloths = ((230, 235, 240), (120, 170, 210), (20, 20, 25), (150, 40, 40), (70, 90, 70), (190, 170, 150))
    color = _shade(rng, cloths[rng.integers(len(cloths))], 12)
    top, left, right, nose = rng.uniform(60, 76), rng.uniform(10, 24), rng.uniform(88, 102), rng.uniform(0, 8)
    folds = np.arange(top + 10, 108, rng.uniform(6, 14))
    fold = tuple(max(0, part - 25) for part in color)

    def draw(on: ImageDraw.ImageDraw) -> None:
        edge = [
            (left, top + 4),
            (56, top - nose),
            (right, top + 4),
            (right - 4, 95),
            (75, 115),
            (37, 115),
            (left + 4, 95),
        ]
        on.polygon(edge, fill=(*color, 255))
        for y in folds:
            on.line([left, y, right, y], fill=(*fold, 120), width=1)

    return _painted(crop, rng, draw, 0.7)


def hand(crop: Faces, rng: np.random.Generator) -> Faces:
    """A palm and fingers of the face's color, or something of another, anywhere on the face."""
    skin = np.median(crop[60:75, 30:45].reshape(-1, 3), axis=0) * rng.uniform(0.6, 1.1)
    other = rng.random() < 0.35
    color = _shade(rng, (rng.uniform(0, 255),) * 3 if other else skin, 20 if other else 3)
    x, y, angle, long = rng.uniform(25, 87), rng.uniform(45, 95), rng.uniform(0, np.pi), rng.uniform(25, 45, 5)

    def draw(on: ImageDraw.ImageDraw) -> None:
        for finger, length in enumerate(long):
            off = 9 * (finger - 2)
            start = (x - off * np.sin(angle), y + off * np.cos(angle))
            end = (start[0] + length * np.cos(angle), start[1] + length * np.sin(angle))
            on.line([*start, *end], fill=(*color, 255), width=10)
        on.ellipse([x - 16, y - 16, x + 16, y + 16], fill=(*color, 255))

    return _painted(crop, rng, draw, 0.8)


def paint(crop: Faces, rng: np.random.Generator) -> Faces:
    """One to three see-through patches of any color."""
    spots = [
        (
            _shade(rng, (127,) * 3, 90),
            rng.uniform(30, 82),
            rng.uniform(40, 95),
            rng.uniform(14, 50),
            rng.uniform(0.4, 1.3),
        )
        for _ in range(rng.integers(1, 4))
    ]
    opaque = int(255 * rng.uniform(0.4, 0.85))

    def draw(on: ImageDraw.ImageDraw) -> None:
        for color, x, y, wide, flat in spots:
            on.ellipse([x - wide, y - wide * flat, x + wide, y + wide * flat], fill=(*color, opaque))

    return _painted(crop, rng, draw, 2)


def half(crop: Faces, rng: np.random.Generator) -> Faces:
    """Something even in front of one side of the face, or of the eyes and what is above."""
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    tilt = rng.uniform(-0.6, 0.6)
    side = across + tilt * down < rng.uniform(-20, 20)
    if rng.random() < 0.3:
        side = down + tilt * across < rng.uniform(-10, 10)
    elif rng.random() < 0.5:
        side = ~side
    cover = rng.uniform(0, 255, 3) * rng.choice([0.1, 0.3, 1]) + rng.normal(0, rng.uniform(2, 20), (SIDE, SIDE, 1))
    return np.where(side[..., None], np.clip(cover, 0, 255), crop).astype(np.uint8)


def glasses_and_mask(crop: Faces, rng: np.random.Generator) -> Faces:
    """Both."""
    return mask(dark_glasses(crop, rng), rng)


def painted_over(crop: Faces, rng: np.random.Generator) -> Faces:
    """A hand, and paint twice."""
    return paint(paint(hand(crop, rng), rng), rng)


COVERS = (dark_glasses, mask, hand, paint, half, glasses_and_mask, painted_over)


def covered(faces: Faces, rng: np.random.Generator) -> Faces:
    """(N, 112, 112, 3): each face behind something."""
    kinds = rng.integers(len(COVERS), size=len(faces))
    return np.stack([COVERS[kind](face, rng) for kind, face in zip(kinds, faces, strict=True)])


def agreements(
    rows: Rows, names: NDArray[np.str_], hidden: Rows, least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) and (N,) how far the mean score with the person's other photos lies above the person's median.

    Photos whose mean score is low may show somebody else, and are not scored with; NaN of people with few photos or
    a low median.

    Args:
        rows: (N, D) unit embeddings.
        names: (N,) whose.
        hidden: (N, D) of the same faces, covered.
        least: the score from which two photos are taken for those of one person.
    """
    plain, behind = np.full((2, len(rows)), np.nan)
    for name in np.unique(names):
        own = np.flatnonzero(names == name)
        if len(own) < 6:
            continue
        scores = rows[own] @ rows[own].T
        np.fill_diagonal(scores, np.nan)
        means = np.nanmean(scores, axis=1)
        sure = own[means >= 0.6 * least]
        if len(sure) < 5 or np.median(means) < least:
            continue
        for row in own:
            others = rows[sure[sure != row]].T
            plain[row], behind[row] = (float((face @ others).mean()) for face in (rows[row], hidden[row]))
        middle = np.median(means)
        plain[own] -= middle
        behind[own] -= middle
    return plain, behind


def fit(
    rows: Rows, hidden: Rows, beside: Rows, names: NDArray[np.str_], sources: NDArray[np.int64], least: float
) -> HardFaces:
    """The two functions, with their zeros set on people, and on folders of crops, that they were not fitted on."""
    from sklearn.linear_model import LogisticRegression, Ridge

    plain, behind = agreements(rows, names, hidden, least)
    used = np.isfinite(plain)
    faces, wanted = np.concatenate([rows[used], hidden[used]]), np.concatenate([plain[used], behind[used]])
    rng = np.random.default_rng(0)
    people, number = np.unique(names[used], return_inverse=True)
    # Backgrounds of a folder are alike: crops of another one show how crops of anybody's photos do.
    parts = int(sources.max()) + 1
    part = np.tile(rng.integers(parts, size=len(people))[number], 2)

    def fitted(face: NDArray[np.bool_], crop: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        ridge = Ridge(alpha=_RIDGE).fit(faces[face], wanted[face])
        both = np.concatenate([faces[face], beside[crop]])
        what = np.repeat([0, 1], [face.sum(), crop.sum()])
        logistic = LogisticRegression(C=1.0, class_weight={0: 1, 1: 5}, max_iter=1000).fit(both, what)
        return np.append(ridge.coef_, ridge.intercept_), np.append(logistic.coef_[0], logistic.intercept_)

    agreement, face_like, crop_agreement, crop_like = (np.empty(len(x)) for x in (faces, faces, beside, beside))
    for place in range(parts):
        here, there = part == place, sources == place
        a, b = fitted(~here, ~there)
        agreement[here], face_like[here] = (faces[here] @ line[:-1] + line[-1] for line in (a, b))
        crop_agreement[there], crop_like[there] = (beside[there] @ line[:-1] + line[-1] for line in (a, b))
    hard, face = float(np.quantile(agreement[: used.sum()], HARD)), float(np.quantile(crop_like, TAKEN))
    taken = (agreement < hard) & (face_like < face)
    lost = (crop_agreement < hard) & (crop_like < face)
    low = wanted < np.quantile(plain[used], 0.001)
    print(
        f"{used.sum()} photos of {len(people)} people, as many covered, {len(beside)} beside; hard to recognize: "
        f"{taken[: used.sum()].mean():.2%}, of those that agree less than 99.9 % of photos do {taken[low].mean():.2%}, "
        f"beside {lost.mean():.2%}"
    )
    a, b = fitted(part >= 0, sources >= 0)
    a[-1] -= hard
    b[-1] -= face
    return HardFaces(
        agreement=tuple(np.round(a, _DIGITS).tolist()),
        no_face=tuple(np.round(b, _DIGITS).tolist()),
        photos=int(used.sum()),
        people=len(people),
    )


def embedded(model: Model, faces: Path) -> tuple[Rows, Rows, Rows, NDArray[np.str_], NDArray[np.int64]]:
    """The rows of the faces, of the same faces covered, and of the crops beside them; then names and sources.

    They are kept in a file beside ``faces``, for the embeddings of a model take longer than its fit.
    """
    kept = faces.with_name(f"{faces.stem}.{model.path.name}.npz")
    with np.load(faces) as gathered:
        if not kept.exists():
            plain = gathered["faces"]
            hidden = covered(plain, np.random.default_rng(0))
            rows, behind, crops = (model.embed(pixels) for pixels in (plain, hidden, gathered["beside"]))
            with replacing(kept) as unfinished:
                np.savez(unfinished, rows=rows, hidden=behind, beside=crops)
        with np.load(kept) as found:
            return found["rows"], found["hidden"], found["beside"], gathered["names"], gathered["sources"]


def main() -> None:
    """Gathers the faces, or stamps the files of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("gather")
    making.add_argument("people", type=Path, nargs="+", help="folders of <name>/<photo>")
    making.add_argument("--beside", nargs=2, action="append", default=[], metavar=("FOLDER", "STEP"))
    making.add_argument("-o", "--output", type=Path, required=True)
    writing = verbs.add_parser("stamp")
    writing.add_argument("files", type=Path, nargs="+", help="of one model")
    writing.add_argument("--faces", type=Path, required=True, help="what gather wrote")
    options = parser.parse_args()
    if options.verb == "gather":
        further = [(Path(folder), int(step)) for folder, step in options.beside]
        gather(options.people, further, options.output)
        return
    model = load(options.files[0])
    rows, hidden, beside, names, sources = embedded(model, options.faces)
    found = fit(rows, hidden, beside, names, sources, threshold_for(model.contract, 0.01).value)
    for file in options.files:
        contract = dataclasses.replace(read_contract(file), hard_faces=found)
        FORMATS[file.suffix[1:]].write_contract(file, contract.to_json())
        seal(file)


if __name__ == "__main__":
    main()
