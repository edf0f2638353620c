from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface_runtime import ContractError, ModelError, load
from edgeface_runtime.contract import Golden, OperatorCost, seal
from edgeface_runtime.integrity import inspect_file
from edgeface_runtime.model import PROBES, probe_images

COST = {"conv": OperatorCost(count=1, macs=24_576, bytes=100), "other": OperatorCost(count=2, macs=0, bytes=7)}


@pytest.fixture(params=["onnx", "tflite"])
def make(request: pytest.FixtureRequest, make_onnx: Any, make_tflite: Any, tmp_path: Path) -> Callable[..., Path]:
    writer = {"onnx": make_onnx, "tflite": make_tflite}[request.param]

    def write(name: str = "model", **changes: Any) -> Path:
        return writer(tmp_path / f"{name}.{request.param}", **changes)

    return write


@pytest.fixture
def good(make: Callable[..., Path]) -> Path:
    return make(golden=answers(make()), cost=COST, licence="ours", operators={"int8": 0, "float": 5, "other": 1})


def answers(path: Path, **changes: Any) -> Golden:
    rows = load(path).embed(probe_images(32)).tolist()
    return Golden(**{"probes": PROBES, "embeddings": tuple(map(tuple, rows)), "min_cosine": 0.9999} | changes)


def test_a_good_file(good: Path):
    found = inspect_file(good)
    assert (found.ok, found.intact, found.reason) == (True, True, None)
    assert found.min_cosine == pytest.approx(1, abs=1e-6)
    document = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert document["schema"] == 1
    assert document["format"] == good.suffix[1:]
    assert document["golden"]["ok"] is True
    assert document["macs"] == 24_576
    assert document["operators"] == {"int8": 0, "float": 5, "other": 1}
    assert document["contract"]["licence"] == "ours"
    assert document["size_bytes"] == good.stat().st_size
    assert document["sha256"] == hashlib.sha256(good.read_bytes()).hexdigest()
    rows = dict(found.rows())
    assert rows["digest"] == "holds"
    assert rows["golden vectors"] == "hold, least cosine 1.000000"
    assert rows["cost of conv"] == "1 operators, 0.0 M MAC, 100 bytes"


def test_one_changed_bit_of_the_weights_is_found(good: Path):
    data = good.read_bytes()
    weights = np.random.default_rng(0).normal(0, 0.3, (8, 4, 4, 3)).astype(np.float32)
    if good.suffix == ".onnx":
        weights = weights.transpose(0, 3, 1, 2)
    start = data.index(np.ascontiguousarray(weights).tobytes())
    rng = np.random.default_rng(1)
    for spot in rng.choice(weights.nbytes, 60, replace=False):
        spoilt = bytearray(data)
        spoilt[start + spot] ^= 1 << rng.integers(8)
        good.write_bytes(spoilt)
        found = inspect_file(good)
        assert (found.ok, found.intact, found.min_cosine) == (False, False, None)
        assert found.reason == "changed since it was exported: its digest differs"
        assert dict(found.rows())["digest"] == "DIFFERS"
        assert json.loads(json.dumps(found.as_json()))["golden"]["ok"] is False


def test_golden_vectors_find_what_the_digest_cannot(make: Callable[..., Path]):
    found = inspect_file(make("other", seed=1, golden=answers(make())))
    assert found.intact
    assert not found.ok
    assert found.min_cosine is not None
    assert found.min_cosine < 0.9999
    assert found.reason == f"golden vectors differ: cosine {found.min_cosine:.6f}, at least 0.9999 is needed"


def test_a_loose_bound_lets_another_arithmetic_pass(make: Callable[..., Path]):
    assert inspect_file(make("loose", seed=1, golden=answers(make(), min_cosine=-1.0))).ok


def test_without_golden_vectors_nothing_is_proven(make: Callable[..., Path]):
    found = inspect_file(make())
    assert (found.ok, found.reason) == (False, "has no golden vectors")


def test_weights_that_give_no_numbers_are_found(good: Path):
    data = good.read_bytes()
    weight = np.random.default_rng(0).normal(0, 0.3, (8, 4, 4, 3)).astype(np.float32)[0, 0, 0, 0].tobytes()
    good.write_bytes(data.replace(weight, np.float32(np.nan).tobytes()))
    seal(good)
    found = inspect_file(good)
    assert (found.ok, found.reason) == (False, "gave embeddings that are not finite numbers")


@pytest.mark.parametrize("changes", [{"probes": "waves-9"}, {"embeddings": ()}])
def test_golden_vectors_that_cannot_be_checked_fail(make: Callable[..., Path], changes: dict[str, Any]):
    found = inspect_file(make("odd", golden=answers(make(), **changes)))
    assert not found.ok
    assert found.min_cosine is None
    assert "golden" in str(found.reason)


def test_what_is_no_model_is_an_error(good: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="No such file"):
        inspect_file(tmp_path / "none.onnx")
    good.write_bytes(good.read_bytes().replace(b"edgeface", b"somebody"))
    with pytest.raises(ContractError, match="carries no edgeface contract"):
        inspect_file(good)


def test_thresholds_and_accuracy_are_tables(make_onnx: Callable[..., Path], tmp_path: Path):
    measured = {"value": 0.431, "low": 0.4, "high": 0.46, "pairs": 123456, "tar": 0.8271}
    path = make_onnx(
        tmp_path / "a.onnx",
        thresholds={"1e-05": None, "0.001": measured, "0.01": {"value": 0.33}},
        accuracy={
            "lfw_view1": {"value": 0.993, "low": 0.985, "high": 0.997, "count": 1000},
            "validation": {"value": None, "epoch": 4},
            "thresholds": {"missing": {"1e-05": "too few pairs"}},
        },
    )
    found = inspect_file(path)
    assert found.thresholds() == [
        ("0.01", "0.330", "", "", ""),
        ("0.001", "0.431", "0.400 to 0.460", "123,456", "82.7 %"),
        ("0.00001", "none", "not measured", "", ""),
    ]
    assert found.accuracy() == [("lfw_view1", "99.30 %", "98.50 to 99.70", "1,000")]
    assert not {"thresholds", "accuracy"} & dict(found.rows()).keys()
