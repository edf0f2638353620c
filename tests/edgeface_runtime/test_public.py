from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import edgeface_runtime

HEAVY = (
    "onnxruntime",
    "ai_edge_litert",
    "tflite_runtime",
    "torch",
    "onnx",
    "tensorflow",
    "sklearn",
    "matplotlib",
    "PIL",
    "sqlite3",
)


def test_all_is_the_sorted_public_names():
    for name in edgeface_runtime.__all__:
        getattr(edgeface_runtime, name)  # some are read only when they are asked for
    public = {
        name
        for name, value in vars(edgeface_runtime).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert edgeface_runtime.__all__ == sorted(public)


def loaded(code: str, *arguments: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after ``code``."""
    code = f"import sys, edgeface_runtime\n{code}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_runtime_imports_no_engine():
    assert loaded("") == set()


def test_a_model_brings_its_own_engine_only(tiny_onnx: Path, tiny_tflite: Path):
    assert loaded("edgeface_runtime.load(sys.argv[1])", str(tiny_onnx)) == {"onnxruntime"}
    assert loaded("edgeface_runtime.load(sys.argv[1])", str(tiny_tflite)) == {"ai_edge_litert"}


def test_reading_a_contract_needs_no_engine(tiny_onnx: Path, tiny_tflite: Path):
    code = "[edgeface_runtime.read_contract(path) for path in sys.argv[1:]]"
    assert loaded(code, str(tiny_onnx), str(tiny_tflite)) == set()


def test_every_public_name_is_documented():
    assert [name for name in edgeface_runtime.__all__ if not getattr(edgeface_runtime, name).__doc__] == []
