"""usearch and onnxruntime in one process, in every order; stand-ins take their places."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDED = 42
STAND_INS = {
    "onnxruntime/__init__.py": f"""
import os, sys
if "usearch" in sys.modules and not os.environ.get("TAKES_EITHER_ORDER"):
    os._exit({ENDED})
if os.environ.get("BROKEN"):
    raise ImportError("libonnxruntime.so: cannot open shared object file")
__version__ = "1.0"
""",
    "onnxruntime/quantization/__init__.py": "",
    "onnxruntime/quantization/calibrate.py": "",
    "usearch/__init__.py": "import os; __version__ = os.environ['USEARCH']",
    "usearch/index.py": "class Index:\n    __init__ = lambda self, **options: None\n    __len__ = lambda self: 0\n",
    "indirect.py": "import usearch.index",
}
INDEX = "from edgeface_runtime.gallery.index import NearIndex; NearIndex(8)"
# Each asks onnxruntime for something, by another way of edgeface's own.
ASKED = {
    "a model": "from edgeface_runtime import load; load('mobilefacenet.int8.onnx')",
    "a detector": "from edgeface_runtime.detection.find import load_detector; load_detector(engine='onnxruntime')",
    "options": "from edgeface_runtime.engines import onnx_options; onnx_options(1)",
}
FIRST = ("import usearch.index", "import indirect", "import edgeface_runtime, usearch")
EXPORT = "import edgeface_export.formats.onnx_file"


REFUSAL = (
    "edgeface_runtime.errors.UsageError: usearch was imported before onnxruntime, and the two work in the other order "
    "only: import edgeface_runtime and onnxruntime before usearch"
)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stand-ins")
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(folder: Path, *lines: str, **settings: str) -> tuple[int, str]:
    """(exit code, last line of stderr) of a program in which the stand-ins are what is installed."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"USEARCH": "2.26.6", "PYTHONPATH": path} | settings
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def test_the_stand_ins_end_the_process(stand_ins: Path):
    assert run(stand_ins, "import usearch, onnxruntime") == (ENDED, "")
    assert run(stand_ins, "import onnxruntime, usearch.index") == (0, "")


@pytest.mark.parametrize(
    ("first", "asked"),
    [*((first, ASKED["a model"]) for first in FIRST), *((FIRST[0], asked) for asked in ASKED.values())],
)
def test_what_would_end_the_process_is_refused(stand_ins: Path, first: str, asked: str):
    assert run(stand_ins, first, asked) == (1, REFUSAL)


def test_an_export_is_refused_too(stand_ins: Path):
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    assert run(stand_ins, FIRST[0], EXPORT) == (1, REFUSAL)
    assert run(stand_ins, "import onnxruntime, usearch", INDEX, EXPORT) == (0, "")


def test_the_refusal_may_be_caught_and_asked_again(stand_ins: Path):
    again = "from edgeface_runtime.engines import onnxruntime\nfrom edgeface_runtime import UsageError"
    ask = "try: onnxruntime()\nexcept UsageError: pass"
    assert run(stand_ins, "import usearch", again, ask, ask, INDEX) == (0, "")


@pytest.mark.parametrize(
    "lines",
    [
        (INDEX, "import onnxruntime"),
        (INDEX, "from edgeface_runtime.engines import onnxruntime; onnxruntime()"),
        ("from edgeface_runtime.engines import onnxruntime; onnxruntime()", "import indirect", INDEX),
    ],
)
def test_the_order_that_works_is_kept(stand_ins: Path, lines: tuple[str, ...]):
    assert run(stand_ins, *lines) == (0, "")


def test_an_index_needs_no_onnxruntime(stand_ins: Path):
    """A program that runs TFLite alone, and had usearch first or an onnxruntime that cannot be loaded."""
    assert run(stand_ins, "import usearch.index", INDEX) == (0, "")
    assert run(stand_ins, INDEX, BROKEN="yes") == (0, "")


def test_versions_that_work_in_either_order_are_let_be(stand_ins: Path):
    ask = """
import sys, usearch
from edgeface_runtime import UsageError
from edgeface_runtime.engines import onnxruntime
for version in sys.argv[1:]:
    usearch.__version__ = version
    sys.modules.pop("onnxruntime", None)
    try:
        onnxruntime()
    except UsageError:
        print(repr(version), file=sys.stderr, end=" ")
"""
    versions = "'2.16.9', '2.25.3', '2.26.1', '2.26.2', '2.27', '3.0.0rc1', ''"
    said = run(stand_ins, f"import sys; sys.argv[1:] = {versions}", ask, TAKES_EITHER_ORDER="yes")
    assert said == (0, "'2.26.2' '2.27' '3.0.0rc1' ''")
