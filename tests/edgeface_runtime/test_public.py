from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeface
import edgeface_runtime
from edgeface_runtime import FaceRecognizer, Frame, FrameResult, Gallery
from edgeface_runtime.testing import fake_photo

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
    found = {name: getattr(edgeface_runtime, name) for name in edgeface_runtime.__all__}
    written = {name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)}
    assert [name for name, value in written.items() if not value.__doc__] == []


def test_tab_shows_every_public_name_before_any_was_used():
    code = "import {0}; print(*sorted(set({0}.__all__) - set(dir({0}))), *{0}.__all__)"
    for package in ("edgeface", "edgeface_runtime"):
        done = subprocess.run([sys.executable, "-c", code.format(package)], capture_output=True, text=True, check=True)
        assert done.stdout.split() == edgeface_runtime.__all__


def test_the_front_door_offers_what_the_runtime_has():
    assert edgeface.__all__ == edgeface_runtime.__all__
    for name in edgeface.__all__:
        assert getattr(edgeface, name) is getattr(edgeface_runtime, name)
    assert edgeface.__version__ == edgeface_runtime.__version__ == importlib.metadata.version("edgeface")
    with pytest.raises(AttributeError, match="'edgeface' has no attribute 'Galery'"):
        edgeface.Galery  # noqa: B018


def test_the_front_door_opens_at_once():
    code = "import edgeface, sys; print(*(name for name in ('numpy', 'typer', 'rich', 'PIL') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("edgeface_runtime", "EnrolmentError", "EnrollmentError"),
        ("edgeface_runtime.errors", "EnrolmentError", "EnrollmentError"),
        ("edgeface_runtime", "Moment", "FrameResult"),
        ("edgeface_runtime", "Pace", "TrackingConfig"),
        ("edgeface", "Pace", "TrackingConfig"),
    ],
)
def test_an_old_name_works_and_says_the_new_one(module: str, old: str, new: str):
    with pytest.warns(DeprecationWarning, match=f"{old} is called {new}") as warned:
        found = getattr(importlib.import_module(module), old)
    assert found is getattr(edgeface_runtime, new)
    assert {Path(one.filename) for one in warned} == {Path(__file__)}
    assert old not in dir(importlib.import_module(module))


def test_a_module_has_its_own_old_names_alone():
    with pytest.raises(AttributeError, match="no attribute 'Pace'"):
        importlib.import_module("edgeface_runtime.errors").Pace  # noqa: B018


def public_functions() -> Iterator[tuple[str, Any]]:
    """Every function, class and method of the package that has no leading underscore, with its full name."""
    for found in pkgutil.walk_packages(edgeface_runtime.__path__, "edgeface_runtime."):
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != found.name or not callable(value):
                continue
            yield f"{found.name}.{name}", value
            if not inspect.isclass(value):
                continue
            for own, member in vars(value).items():
                member = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", None) or member)
                if inspect.isfunction(member) and (own == "__init__" or not own.startswith("_")):
                    yield f"{found.name}.{name}.{own}", member


def test_the_types_of_every_public_function_can_be_read():
    checked = 0
    for name, value in public_functions():
        try:
            typing.get_type_hints(value)
        except NameError as error:
            pytest.fail(f"{name}: {error}")
        checked += 1
    assert checked > 150


def classes_in(kind: Any) -> Iterator[type]:
    """Those of the package that a type is made of."""
    if inspect.isclass(kind) and kind.__module__.startswith("edgeface_runtime"):
        yield kind
    for part in typing.get_args(kind):
        yield from classes_in(part)


def test_whatever_is_returned_can_be_imported():
    public = {getattr(edgeface_runtime, name) for name in edgeface_runtime.__all__}
    met: set[type] = set()
    for value in public:
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        members = [member for name, member in vars(value).items() if not name.startswith("_")]
        methods = [getattr(member, "fget", None) or getattr(member, "__func__", member) for member in members]
        for function in (value, *methods):
            if inspect.isfunction(function):
                met |= set(classes_in(typing.get_type_hints(function).get("return")))
        if dataclasses.is_dataclass(value):
            met |= {kind for hint in typing.get_type_hints(value).values() for kind in classes_in(hint)}
    assert len(met) > 15
    assert {kind.__name__ for kind in met - public} == set()


def test_a_name_is_in_the_reference():
    page = Path(__file__).parents[2] / "docs" / "api.md"
    if not page.is_file():
        pytest.skip("needs the checkout's docs")
    headings = set(re.findall(r"^## `(\w+)", page.read_text(encoding="utf-8"), re.M))
    assert {name for name in edgeface_runtime.__all__ if not name.endswith("Error")} <= headings


def test_what_a_console_shows_is_short(fake: FaceRecognizer, gallery: Gallery):
    model = edgeface_runtime.load()
    frame = Frame(3, 0.12, fake_photo(1))
    shown = [
        model,
        model.contract,
        fake,
        fake.model,
        gallery,
        frame,
        FrameResult(frame, (), ()),
        *fake.faces(fake_photo(1)),
    ]
    assert {type(one).__name__: len(repr(one)) for one in shown if len(repr(one)) > 400} == {}
    assert repr(model).startswith("<Model mobilefacenet int8: 112 × 112 px → 128 floats, ")
    assert repr(frame) == "<Frame 3, 0.120 s, 64 × 64 px>"
