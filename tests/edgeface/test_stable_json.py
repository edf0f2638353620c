"""The keys of the ``--json`` documents that scripts are promised: more may come, none may go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeface.cli import run

if TYPE_CHECKING:
    from conftest import Trained

Keys = Mapping[str, "Keys | list[Keys] | None"]


def keys(words: str, **below: Keys | list[Keys]) -> Keys:
    """The words as keys, and those that hold an object or a list of objects with the keys in it."""
    return dict.fromkeys(words.split()) | below


INTERVAL = keys("value low high")
BENCH_ROW = keys(
    "path format engine engine_version precision threads load_ms first_ms p50_ms p90_ms p99_ms interval_ms calls "
    "peak_mb size_bytes top1 auc source"
)
EXPORTED = keys(
    "path format precision size_bytes sha256 cosine_mean cosine_p1 drop_points drop_interval",
    operators=keys("int8 float other"),
)
SHIPPED = keys("name default backbone format precision size_bytes sha256 licence accuracy")
IDENTIFICATION = keys("method accuracy precision recall f1 photos identities")
VERIFICATION = keys("accuracy auc eer threshold pairs failed", tar_at_far={"0.001": INTERVAL})


def absent(wanted: Keys | list[Keys], found: object, at: str = "") -> Iterator[str]:
    """The keys that a document lacks."""
    if isinstance(wanted, list):
        assert isinstance(found, list)
        assert found, at
        for item in found:
            yield from absent(wanted[0], item, f"{at}[]")
        return
    assert isinstance(found, dict), at
    for key, below in wanted.items():
        if key not in found:
            yield f"{at}.{key}"
        elif below is not None:
            yield from absent(below, found[key], f"{at}.{key}")


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> object:
    """What a command prints with ``--json``."""
    assert run([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_key_that_goes_is_noticed():
    wanted = keys("schema", rows=[keys("path")])
    assert list(absent(wanted, {"schema": 1, "rows": [{"path": "a"}, {"file": "b"}]})) == [".rows[].path"]


def test_models(capsys: pytest.CaptureFixture[str]):
    assert not list(absent(keys("schema", models=[SHIPPED]), printed(capsys, "models")))


def test_bench_of_a_board(capsys: pytest.CaptureFixture[str]):
    found = printed(capsys, "bench", "mobilefacenet.onnx", "mobilefacenet.tflite", "--device", "rpi-5")
    assert not list(absent(keys("schema ratios", device=keys("name source"), rows=[BENCH_ROW]), found))


def test_bench_here(tiny_onnx: Path, tiny_tflite: Path, capsys: pytest.CaptureFixture[str]):
    found = printed(capsys, "bench", tiny_onnx, tiny_tflite, "--calls", 10)
    wanted = keys("schema", device=keys("name source"), rows=[BENCH_ROW], ratios=[keys("a b p50")])
    assert not list(absent(wanted, found))


def test_inspect(trained: Trained, capsys: pytest.CaptureFixture[str]):
    found = printed(capsys, "inspect", trained.file("int8", "tflite"))
    wanted = keys(
        "schema path format macs size_bytes sha256",
        contract=keys("schema name backbone precision recipe input embedding thresholds golden"),
        golden=keys("ok min_cosine"),
        operators=keys("int8 float other"),
    )
    assert not list(absent(wanted, found))


def test_eval(trained: Trained, capsys: pytest.CaptureFixture[str]):
    found = printed(capsys, "eval", trained.file("int8", "tflite"), "--data", trained.photos)
    wanted = keys("schema model", identification=IDENTIFICATION, verification=VERIFICATION)
    assert not list(absent(wanted, found))


def test_export(trained: Trained):
    wanted = keys("schema", files=[EXPORTED], gate=keys("passed max_drop_points reason"))
    assert not list(absent(wanted, json.loads(json.dumps(trained.export.as_json()))))
