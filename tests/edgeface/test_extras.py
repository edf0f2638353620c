"""Device verbs need no extra, and the extra that a hint names is enough.

Each runs in a virtual environment that holds edgeface and what it asks for, and nothing else: made of links to what is
installed here, so that it needs neither a network nor a minute.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import tomllib
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("packaging")

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edgeface
import edgeface_devices
import edgeface_export
import edgeface_runtime
from edgeface.cli import EXTRAS, VERB_EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
ROOTS = [
    Path(package.__file__).parents[1] for package in (edgeface, edgeface_export, edgeface_devices, edgeface_runtime)
]


@functools.cache
def requirements(*extras: str) -> frozenset[str]:
    """Distributions that edgeface with these extras asks for, theirs included, as this machine's markers have it."""
    found: set[str] = set()
    texts = [*PROJECT["dependencies"], *(f"edgeface[{extra}]" for extra in extras)]
    todo = [(Requirement(text), ("",)) for text in texts]
    while todo:
        wanted, of = todo.pop()
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in of):
            continue
        if wanted.name == "edgeface":
            optional = PROJECT["optional-dependencies"]
            todo += [(Requirement(text), ("",)) for extra in wanted.extras for text in optional[extra]]
            continue
        name = canonicalize_name(wanted.name)
        if name in found and not wanted.extras:
            continue
        found.add(name)
        needs = importlib.metadata.distribution(name).requires or []
        todo += [(Requirement(text), ("", *wanted.extras)) for text in needs]
    return frozenset(found)


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def edgeface(self, line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs the command line ``edgeface`` with these words, under a home of its own."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "OMP_WAIT_POLICY", "TMPDIR") if key in os.environ}
        return subprocess.run(
            [self.python, "-m", "edgeface", *line.split()],
            cwd=cwd,
            env={"PATH": "/usr/bin:/bin", "HOME": str(home), "COLUMNS": "200", **kept},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def build(folder: Path, *extras: str) -> Environment:
    """Makes an environment with edgeface, its base requirements and those of the extras.

    Raises:
        PackageNotFoundError: something that it asks for is not installed here.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in requirements(*extras) | {"edgeface"}:
        distribution = importlib.metadata.distribution(name)
        for top in {Path(file).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if source.suffix != ".pth" and not (site / top).is_symlink():
                (site / top).symlink_to(source)
    (site / "checkout.pth").write_text("".join(f"{root}\n" for root in ROOTS))
    return Environment(folder)


Make = Callable[..., Environment]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """``environment("data", "report")``: an environment with these extras, made once."""
    made: dict[tuple[str, ...], Environment] = {}

    def make(*extras: str) -> Environment:
        if extras not in made:
            try:
                made[extras] = build(tmp_path_factory.mktemp("environment"), *extras)
            except importlib.metadata.PackageNotFoundError as error:
                pytest.skip(f"needs {error.name}, which [{','.join(extras)}] brings")
        return made[extras]

    return make


@pytest.fixture(scope="module")
def place(att_people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``people``, with a folder of photos each, and single photos of the first two."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(att_people, folder / "people")
    for person, photo in (("s1", 1), ("s1", 2), ("s2", 1)):
        face = Image.open(folder / "people" / person / f"{photo}.pgm")
        face.resize((184, 224)).save(folder / f"{person}-{photo}.png")
    (folder / "photos").mkdir()
    shutil.copy(folder / "s1-2.png", folder / "photos")
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(folder / "photos" / "nobody.png")
    return folder


def test_device_verbs_work_with_nothing_but_the_base_requirements(environment: Make, place: Path):
    bare = environment()
    for line, code in (
        ("models --json", 0),
        ("devices --json", 0),
        ("doctor --json", None),  # what it finds is this machine's affair
        ("inspect mobilefacenet --json", 0),
        ("inspect mobilefacenet.onnx --json", 0),
        ("profile mobilefacenet-tiny --calls 3 --json", 0),
        ("profile mobilefacenet-tiny.onnx --calls 3 --json", 0),
        ("bench mobilefacenet-tiny mobilefacenet-tiny.onnx --calls 3 --json", 0),
        ("bench mobilefacenet-tiny --device rpi-4b,rpi-5 --json", 0),
        ("enroll s1-1.png --name Ada -g people.gallery --force --json", 0),
        ("enroll s2-1.png --name Bob -g people.gallery --force --json", 0),
        ("identify s1-2.png -g people.gallery --json", 0),
        ("verify s1-1.png s1-2.png --json", 0),
        ("gallery list people.gallery --json", 0),
        ("run --folder photos -g people.gallery -o drawn --json", 0),
    ):
        done = bare.edgeface(line, place)
        assert "not installed" not in done.stderr, (line, done.stderr)
        assert done.returncode == code or (code is None and done.returncode in (0, 1)), (line, done.stderr)
        assert json.loads(done.stdout)["schema"] == 1, line


def test_bench_measures_accuracy_with_nothing_but_the_base_requirements(environment: Make, place: Path):
    done = environment().edgeface("bench mobilefacenet-tiny --calls 3 --data people --json", place)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["top1"] > 0.9
    assert row["auc"] > 0.9


HINTS = [
    ("bench mobilefacenet-tiny --calls 3 --report page.html", "report"),
    ("profile mobilefacenet-tiny --calls 3 --report page.html", "report"),
    ("data fetch att fetched", "data"),
    ("data prepare people prepared --workers 1", "data"),
    ("data prepare people prepared-by-two --workers 2", "data"),
    ("eval mobilefacenet-tiny --data people", "data"),
    ("eval mobilefacenet-tiny --data people --method svc", "data"),
    ("eval mobilefacenet-tiny --data people --report page.html", "data,report"),
    ("eval run --data people", "train"),
    ("train people --epochs 1 --set batch=16 -o trained", "train"),
    ("inspect mobilefacenet-tiny.onnx --compare mobilefacenet-tiny.onnx", "export"),
    (
        "export run --data people --int8 --faces 8 --format onnx --format tflite --max-drop 100 --min-cosine -1",
        "export",
    ),
    ("run --video door.mp4 -g people.gallery", "camera"),
]


@pytest.fixture(scope="module")
def furnished(place: Path, trained, environment: Make) -> Path:
    """``place`` with a run, a gallery and a video too."""
    cv2 = pytest.importorskip("cv2")
    shutil.copytree(trained.run, place / "run")
    writer = cv2.VideoWriter(str(place / "door.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (184, 224))
    for _ in range(5):
        writer.write(cv2.imread(str(place / "s1-1.png")))
    writer.release()
    done = environment().edgeface("enroll s2-1.png --name Bob -g people.gallery --force", place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.parametrize(("line", "extra"), HINTS, ids=[line.split(" --set")[0] for line, _ in HINTS])
def test_the_extra_that_a_hint_names_is_enough(line: str, extra: str, environment: Make, furnished: Path):
    refused = environment().edgeface(line, furnished)
    assert refused.returncode == 2, refused.stderr
    assert re.search(r"pip install 'edgeface\[(.*)\]'", refused.stderr)[1] == extra, refused.stderr
    done = environment(*extra.split(",")).edgeface(line, furnished)
    assert done.returncode == 0, done.stderr


def test_the_keras_converter_needs_the_extra_tensorflow_alone(environment: Make, furnished: Path):
    done = environment("tensorflow").edgeface(
        "export run --data people --format tflite --precision fp32 --converter keras -o keras", furnished
    )
    assert done.returncode == 0, done.stderr
    assert (furnished / "keras" / "mobilefacenet.fp32.tflite").exists()


def test_a_hint_names_the_least_that_brings_the_package():
    providers = importlib.metadata.packages_distributions()
    base = requirements()
    sizes = {extra: _bytes(found - base) for extra in EXTRAS_TRIED if (found := _requirements(extra))}
    for package, named in EXTRAS.items():
        if package not in providers:
            continue
        bringing = [extra for extra in sizes if set(_names(providers[package])) & _requirements(extra)]
        if bringing:
            assert min(bringing, key=sizes.get) == named, (package, bringing)
    for changes in VERB_EXTRAS.values():
        for package, named in changes.items():
            if package in providers and all(map(_requirements, named.split(","))):
                assert set(_names(providers[package])) & requirements(*named.split(",")), (package, named)


# attack, dev and docs are for who works on edgeface; extras of what is not installed here cannot be weighed.
EXTRAS_TRIED = sorted(PROJECT["optional-dependencies"].keys() - {"attack", "dev", "docs"})


def _requirements(extra: str) -> frozenset[str]:
    try:
        return requirements(extra)
    except importlib.metadata.PackageNotFoundError:
        return frozenset()


def _names(distributions: list[str]) -> set[str]:
    return set(map(canonicalize_name, distributions))


def _bytes(names: frozenset[str]) -> int:
    files = [file for name in names for file in importlib.metadata.files(name) or []]
    return sum(file.size or 0 for file in files)
