"""Which file of which format is broken how, and which commands then read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.hostile import mutations as m
from benchmarks.hostile.mutations import Mutate

_BYTES: tuple[Mutate, ...] = (m.cut, m.garbage, m.bits)


@dataclass(frozen=True)
class Target:
    """One file to break. In words ``KIT`` is its folder, ``SEEDS`` all sound files, ``OUT`` where results go.

    What else is written in capitals is a sound file (``PLACES``).
    """

    format: str
    kit: str
    """Folder of the seeds that is copied for each try."""
    file: str
    """In the kit."""
    mutate: Sequence[Mutate]
    verbs: Sequence[str]
    share: float
    """Of all tries."""
    special: bool = True
    """Whether folders, pipes and devices stand in the file's place too."""
    rename: tuple[str, ...] = ()
    """Names that the broken file may have instead."""


PLACES = {
    "TFLITE": "SEEDS/models/mobilefacenet-tiny.int8.tflite",
    "ONNX": "SEEDS/models/mobilefacenet-tiny.int8.onnx",
    "SETTINGS": "SEEDS/settings/settings.toml",
    "LFW": "SEEDS/lfw-prepared",
}
_JSON = (*[m.json_value] * 6, *[m.json_whole] * 2, *_BYTES)
_CSV = (*[m.csv_cell] * 6, *_BYTES)
_TEXT = (*[m.text_word] * 6, *_BYTES)
_TOML = (*[m.toml_value] * 6, *_BYTES)
_MODEL = (*[m.contract] * 5, m.bits, m.head_bits, m.cut, m.garbage, m.numbers)
_TENSORS = (*[m.tensors_document] * 5, m.cut, m.garbage, m.numbers)
_IMAGE = (m.bits, m.head_bits, m.head_bits, m.numbers, m.cut, m.garbage, m.picture)

_PEOPLE = "SEEDS/gallery/people.gallery"
_TINY = "-m TFLITE"
_PREPARED = (
    "data inspect KIT -o OUT/page.html",
    "data inspect KIT -o OUT/page.html --json --model ONNX",
    "data split KIT --test 0.2",
    "data split KIT --method k -k 2 --json",
)
_FACES = (
    *_PREPARED,
    "eval TFLITE --data KIT -o OUT --json",
    "train KIT -o OUT/run --config SETTINGS ",
)
_BENCH = (
    "bench TFLITE --device rpi-4b --add FILE --report OUT/page.html -o OUT/bench.json",
    "bench TFLITE --device rpi-5 --baseline FILE --fail-if p50>30 --fail-if ratio>1.1 --json",
    "bench TFLITE --device rpi-4b --add FILE --budget-ms 30 --min-accuracy 0.9",
)
_GALLERY = (
    f"identify SEEDS/photo/one.jpg -g FILE {_TINY} --json",
    "gallery list FILE",
    "gallery list FILE --json",
    f"gallery check FILE {_TINY} --json",
    f"gallery check FILE {_TINY} --report OUT/check.html",
    "gallery export FILE OUT/people.json",
    "gallery export FILE OUT/people.csv",
    "gallery backup FILE OUT/copy.gallery",
    f"gallery import OUT/new.gallery FILE {_TINY}",
    "gallery remove FILE s1",
    "gallery rename FILE s1 somebody",
    f"enroll SEEDS/photo/one.jpg -n Ada -g FILE {_TINY} --force",
    f"run --folder SEEDS/photo -g FILE {_TINY} --json-lines",
)
_EMBEDDINGS = (
    f"gallery import OUT/new.gallery FILE {_TINY}",
    f"gallery import KIT/people.gallery FILE {_TINY} --json",
    "gallery merge KIT/people.gallery FILE --force",
)
_INSPECT = ("inspect FILE", "inspect FILE --json")
_PHOTO = (
    f"identify FILE -g {_PEOPLE} {_TINY}",
    f"identify KIT -g {_PEOPLE} {_TINY} --json",
    f"identify KIT -g {_PEOPLE} {_TINY} --csv",
    f"verify FILE SEEDS/photo/one.jpg {_TINY}",
    f"enroll FILE -n Ada -g OUT/new.gallery {_TINY}",
    f"group KIT -o OUT/grouped {_TINY} --folders none",
    f"run --folder KIT -g {_PEOPLE} {_TINY} --json-lines",
)
_IMAGE_NAMES = ("one.png", "one.tif", "one.bmp", "one.gif", "one.webp", "one.ppm", "one.heic", "one.tga", "one.avif")

TARGETS = (
    Target("faces.csv", "prepared", "faces.csv", _CSV, _FACES, 6.5),
    Target("dataset.json", "prepared", "dataset.json", _JSON, _PREPARED, 5),
    Target("rejected.csv", "prepared", "rejected.csv", _CSV, _PREPARED[:2], 1.5),
    Target("crops' cache", "prepared", ".cache/faces-112.json", _JSON, _FACES[1:2] + _FACES[4:5], 1),
    Target(
        "crops' cache", "prepared", ".cache/faces-112.npy", (m.head_bits, m.cut, m.garbage, m.numbers), _FACES[4:5], 1
    ),
    Target(
        "labels CSV", "labels", "labels.csv", _CSV, ("data prepare SEEDS/few OUT/made --workers 1 --labels FILE",), 3
    ),
    Target(
        "labels CSV", "labels", "identity.txt", _TEXT, ("data prepare SEEDS/few OUT/made --workers 1 --labels FILE",), 2
    ),
    Target(
        "groups CSV",
        "groups",
        "groups.csv",
        _CSV,
        ("eval TFLITE --data SEEDS/prepared --groups FILE --json",),
        2.5,
    ),
    Target(
        "pairs file",
        "pairs",
        "pairs.txt",
        _TEXT,
        (
            "eval TFLITE --lfw LFW --pairs FILE --json",
            "eval TFLITE --lfw LFW --pairs SEEDS/pairs/pairs.txt --train-pairs FILE",
        ),
        4,
    ),
    Target("bench.json", "bench", "bench.json", _JSON, _BENCH, 7),
    Target("bench.json", "bench", "photo.json", _JSON, _BENCH, 3),
    Target("bench.json", "bench", "boards.json", _JSON, _BENCH, 2),
    Target(
        "anchors",
        "anchors",
        "anchors.jsonl",
        (*[m.json_lines] * 6, *_BYTES),
        ("bench TFLITE --device rpi-4b --json",),
        3,
    ),
    Target(
        "run.json",
        "run",
        "run.json",
        _JSON,
        ("train SEEDS/prepared -o KIT --resume", "eval KIT --data SEEDS/prepared --method head"),
        2.5,
    ),
    Target("curves.csv", "run", "curves.csv", _CSV, ("train SEEDS/prepared -o KIT --resume",), 1),
    Target(
        "checkpoint",
        "run",
        "last.safetensors",
        _TENSORS,
        ("train SEEDS/prepared -o KIT --resume", "eval KIT --data SEEDS/prepared --method head --json"),
        3,
    ),
    Target(
        "checkpoint",
        "run",
        "best.safetensors",
        _TENSORS,
        (
            "eval KIT --data SEEDS/prepared",
            "eval FILE --data SEEDS/prepared --json",
            "train SEEDS/prepared -o OUT/run --init FILE --config SETTINGS",
            "export FILE -d SEEDS/prepared -o OUT --format tflite --int8 --faces 0",
        ),
        4,
    ),
    Target(
        "training TOML",
        "settings",
        "settings.toml",
        _TOML,
        ("train SEEDS/prepared -o OUT/run --epochs 1 --config FILE",),
        5,
    ),
    Target(
        "layer names",
        "names",
        "names.toml",
        _TOML,
        ("train SEEDS/prepared -o OUT/run --config SETTINGS --init SEEDS/run/best.safetensors --init-names FILE",),
        1.5,
    ),
    Target(
        "contract TOML",
        "contracts",
        "net.toml",
        _TOML,
        ("eval SEEDS/models/bare.onnx --data SEEDS/prepared --contract FILE --json",),
        3.5,
    ),
    Target(
        "contract JSON",
        "contracts",
        "net.json",
        _JSON,
        ("eval SEEDS/models/bare.onnx --data SEEDS/prepared --contract FILE --json",),
        3.5,
    ),
    Target(
        "archive (ncnn)",
        "models",
        "net.ncnn",
        (*[m.archive] * 5, *[m.contract] * 3, m.cut, m.garbage, m.head_bits),
        (*_INSPECT, f"identify SEEDS/photo/one.jpg -g {_PEOPLE} -m FILE", "bench FILE --calls 5"),
        4,
    ),
    Target(
        "ONNX file",
        "models",
        "mobilefacenet-tiny.int8.onnx",
        _MODEL,
        (*_INSPECT, f"identify SEEDS/photo/one.jpg -g {_PEOPLE} -m FILE --json", "bench FILE --device rpi-4b"),
        5,
    ),
    Target(
        "TFLite file",
        "models",
        "mobilefacenet-tiny.int8.tflite",
        _MODEL,
        (*_INSPECT, f"identify SEEDS/photo/one.jpg -g {_PEOPLE} -m FILE --json", "bench FILE --device rpi-4b"),
        5,
    ),
    Target("gallery", "gallery", "people.gallery", (m.bits, m.head_bits, m.cut, m.garbage), _GALLERY, 9),
    Target("gallery JSON", "gallery", "people.json", _JSON, _EMBEDDINGS, 3),
    Target("gallery CSV", "gallery", "people.csv", _CSV, _EMBEDDINGS, 3),
    Target("gallery NPZ", "gallery", "people.npz", (*[m.arrays] * 5, *_BYTES), _EMBEDDINGS, 3),
    Target(
        "group's cache",
        "grouped",
        "faces.db",
        (m.bits, m.cut, m.garbage),
        (
            f"group SEEDS/photo -o KIT {_TINY} --folders none",
            f"group -o KIT {_TINY} --json",
            f"group -o KIT --name 1=Ann {_TINY}",
        ),
        2,
    ),
    Target("photo", "photo", "one.jpg", _IMAGE, _PHOTO, 8, rename=_IMAGE_NAMES),
    Target(
        "photos to prepare",
        "few",
        "s1/1.png",
        _IMAGE,
        (
            "data prepare KIT OUT/made --workers 1",
            f"enroll KIT -g OUT/new.gallery {_TINY}",
            "train KIT -o OUT/run --config SETTINGS",
        ),
        3,
    ),
    Target(
        "camera and password files",
        "labels",
        "identity.txt",
        (m.garbage, m.text_word),
        (
            f"run --camera @FILE -g {_PEOPLE} {_TINY} --seconds 1",
            f"run --folder SEEDS/photo -g {_PEOPLE} {_TINY} --mqtt mqtt://u@127.0.0.1:9 --mqtt-password-file FILE",
        ),
        1,
    ),
)
