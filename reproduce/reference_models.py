r"""Rebuilds the models that come with edgeface, from photos that anybody can get (docs/models.md).

    python -m reproduce.reference_models photos --fiw FIW/train --celeba Celeb --celeba-names identity_CelebA.txt \
        --leave-out fiw_lfw_overlap.csv --quality fiw_persons.csv photos/people
    edgeface data prepare photos/people prepared/people --licence "non-commercial research (CelebA, FIW)"
    edgeface data split prepared/people --method identities --test 0.15
    python -m reproduce.reference_models train mobilefacenet --photos prepared/people --peers peers -o runs/reference
    python -m reproduce.reference_models ship mobilefacenet --photos prepared/people --run runs/reference \
        --init peers/foamliu.pt

The small one learns from the other and from faces without names (docs/models.md says which), and starts from the one
before it, ``mobilefacenet-tiny-0.1``, which is trained in the same way. ``ship`` whitens its embedding within people
(``reproduce.whitened``):

    edgeface data prepare photos/others prepared/others --licence "non-commercial research" --drop duplicates
    python -m reproduce.reference_models train mobilefacenet-tiny --photos prepared/people --others prepared/others \
        -o runs/tiny
    python -m reproduce.reference_models ship mobilefacenet-tiny --photos prepared/people --run runs/tiny

``mobilefacenet-turned`` is made by reproduce.turned_model, and is no shipped file.

ResNet18 and VGG11 are made from Pins by reproduce.pins_table (docs/results.md).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
from pathlib import Path

from edgeface.cli import run
from edgeface.training.checkpoints import load_checkpoint, save_tensors
from edgeface.training.init.weights import init_backbone
from edgeface_runtime.model import FOLDER, FORMATS
from reproduce import whitened

WEIGHTS = Path(__file__).parents[1] / "weights"
_PEOPLE = "learnt from photos of CelebA and Families in the Wild"
_MORE = "UTKFace, All-Age-Faces, RAF-DB, SCUT-FBP5500"
_START = "from the weights of foamliu/MobileFaceNet (Apache-2.0; MS-Celeb-1M)"
LICENCES = {
    "mobilefacenet": f"research only: {_PEOPLE}, {_START}",
    "mobilefacenet-tiny-0.1": f"research only: {_PEOPLE}, {_MORE} and of sportsmen, {_START}",
    "mobilefacenet-tiny": f"research only: {_PEOPLE}, {_MORE}, MEBeauty, of actors and of sportsmen, {_START}",
}
# The teachers are Apache-2.0, both.
_TEACHERS = (
    "--teacher {peers}/foamliu-mobilefacenet-128d.onnx --teacher-contract foamliu "
    "--teacher {peers}/sirius-mobilefacenet-192d.tflite --teacher-contract sirius"
)
_DISTIL = (
    "--set normalization=imagenet --set classification_weight=0 --set batch_size=64 "
    "--set erase_prob=0.1 --set blur_prob=0.1 --set downscale_prob=0.1"
)
_TINY = (
    "--backbone mobilefacenet-tiny:act=relu6,stem=foamliu --guide {weights}/mobilefacenet.safetensors "
    f"--unlabeled {{others}} {_DISTIL} --set hint_weight=1 --set warmup_ratio=0.05 --set lr=2e-3"
)
TRAINING = {
    "mobilefacenet": "--backbone mobilefacenet:act=relu6,stem=foamliu --init {peers}/foamliu.pt --init-names foamliu "
    f"--epochs 4 {_DISTIL} --set warmup_ratio=0.1 --set lr=1e-3 {_TEACHERS}",
    "mobilefacenet-tiny-0.1": f"--init {{weights}}/mobilefacenet.safetensors --epochs 2 {_TINY}",
    "mobilefacenet-tiny": f"--init {{weights}}/mobilefacenet-tiny-0.1.safetensors --epochs 3 {_TINY} "
    "--set turn_prob=0.2 --set mixed_precision=bf16",
}

# CelebA's identities that are mixed up, are in LFW, or are in Pins; FIW's people who are in Pins, and one (F0335) who
# is CelebA's 7257: as strangers to one another these two would set the thresholds alone.
LEFT_OUT = frozenset(
    [f"celeba-{number}" for number in (7218, 7232, 7312, 7314, 7317, 7345, 7355, 7393, 7398)]
    + [
        "fiw-F0021-MID1", "fiw-F0173-MID2", "fiw-F0210-MID1", "fiw-F0222-MID1", "fiw-F0225-MID1", "fiw-F0253-MID1",
        "fiw-F0316-MID1", "fiw-F0335-MID1", "fiw-F0354-MID1", "fiw-F0485-MID2", "fiw-F0490-MID1", "fiw-F0521-MID1",
        "fiw-F0642-MID1",
        "fiw-F0726-MID1",
    ]
)  # fmt: skip
WHITENED = frozenset(["mobilefacenet-tiny"])
IN_LFW = 0.5
"""Cosine to a person of LFW from which one of FIW is taken for the same."""


def people(options: argparse.Namespace) -> dict[str, list[Path]]:
    """Person → photos: of FIW at most 10 of people with 8 or more that agree, of CelebA at most 20 a person."""
    with options.leave_out.open(newline="") as file:
        in_lfw = {row["fiw_person"] for row in csv.DictReader(file) if float(row["cosine"]) > IN_LFW}
    with options.quality.open(newline="") as file:
        agree = {row["person"] for row in csv.DictReader(file) if float(row["intra_cosine"] or 0) >= 0.4}
    found: dict[str, list[Path]] = {}
    for folder in sorted(options.fiw.glob("F*/MID*")):
        person, photos = f"{folder.parent.name}/{folder.name}", sorted(folder.glob("*.jpg"))
        if person in agree - in_lfw and len(photos) >= 8:
            found[f"fiw-{person.replace('/', '-')}"] = photos[:10]
    named = dict(line.split() for line in options.celeba_names.read_text().splitlines())
    for photo in sorted(options.celeba.glob("*.jpg")):
        photos = found.setdefault(f"celeba-{named[photo.name]}", [])
        if len(photos) < 20:
            photos.append(photo)
    return {person: photos for person, photos in found.items() if person not in LEFT_OUT}


def gather(options: argparse.Namespace) -> None:
    """One folder a person, of links to the photos."""
    for person, photos in people(options).items():
        folder = options.output / person
        folder.mkdir(parents=True)
        for photo in photos:
            os.link(photo, folder / photo.name)


def train(options: argparse.Namespace) -> int:
    """The recorded command, printed and run."""
    places = {"peers": options.peers, "others": options.others, "weights": WEIGHTS}
    words = ["train", str(options.photos), *(word.format(**places) for word in TRAINING[options.name].split())]
    words += ["--licence", LICENCES[options.name], "-o", str(options.output)]
    print("edgeface", " ".join(words))
    return run(words)


def average(run_folder: Path, init: Path) -> Path:
    """The mean of the fine-tuned weights and those that they started from, as a checkpoint in the run folder.

    Half of each keeps what the start knew of other photos (M. Wortsman et al., "Robust fine-tuning of zero-shot
    models", CVPR 2022): the share was not chosen on any photos.
    """
    checkpoint = load_checkpoint(run_folder)
    tuned = {name: value.clone() for name, value in checkpoint.net.state_dict().items()}
    names = None if init.suffix == ".safetensors" else "foamliu"
    init_backbone(checkpoint.net, str(init), backbone=checkpoint.contract.backbone, names=names)
    start = checkpoint.net.state_dict()
    mean = {name: (value + start[name]) / 2 if value.is_floating_point() else value for name, value in tuned.items()}
    path = run_folder / "averaged.safetensors"
    save_tensors(path, mean, {"contract": json.loads(checkpoint.contract.to_json())})
    return path


def ship(options: argparse.Namespace) -> int:
    """Exports int8 files behind the gate and puts them where the package has its models."""
    made = options.run / "shipped"
    source = average(options.run, options.init) if options.init else options.run
    if options.name in WHITENED:
        source = whitened.write(source, options.photos, options.run / "whitened.safetensors")
    words = [
        "export",
        str(source),
        "--data",
        str(options.photos),
        "--int8",
        "--calibration-faces",
        "400",
        "-o",
        str(made),
    ]
    if code := run(words):
        return code
    FOLDER.mkdir(exist_ok=True)
    for kind in FORMATS:
        (file,) = made.glob(f"*.int8.{kind}")
        shutil.copyfile(file, FOLDER / f"{options.name}.int8.{kind}")
    return 0


def main() -> int:
    """Runs one of the steps; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    photos = verbs.add_parser("photos")
    for option in ("--fiw", "--celeba", "--celeba-names", "--leave-out", "--quality"):
        photos.add_argument(option, type=Path, required=True)
    photos.add_argument("output", type=Path)
    for verb in ("train", "ship"):
        command = verbs.add_parser(verb)
        command.add_argument("name", choices=TRAINING)
        command.add_argument("--photos", type=Path, required=True)
        if verb == "train":
            command.add_argument("--peers", type=Path, help="folder of the teachers and their contracts")
            command.add_argument("--others", type=Path, help="prepared faces without names")
            command.add_argument("-o", "--output", type=Path, required=True)
        else:
            command.add_argument("--run", type=Path, required=True)
            command.add_argument("--init", type=Path, help="average with these weights, which the run started from")
    options = parser.parse_args()
    if options.verb == "photos":
        gather(options)
        return 0
    if options.verb == "ship":
        return ship(options)
    for place in ("peers", "others"):
        if f"{{{place}}}" in TRAINING[options.name] and not getattr(options, place):
            parser.error(f"{options.name} is trained with --{place}")
    return train(options)


if __name__ == "__main__":
    raise SystemExit(main())
