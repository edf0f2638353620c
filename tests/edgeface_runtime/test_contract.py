from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeface_runtime import Contract, ContractError, EmbeddingSpec, InputSpec, read_contract
from edgeface_runtime.contract import Golden, is_intact, seal

GOLDEN = {"probes": "p", "embeddings": [[1.0, 0.0]], "min_cosine": 0.99}
HARD_FACES = {"agreement": [1.0, 0.0, 0.5], "no_face": [0.0, 1.0, 0.5], "photos": 9, "people": 3}


def document(**changes: Any) -> dict[str, Any]:
    return {"schema": 1, "name": "n", "backbone": "b", "embedding": {"length": 2}} | changes


def test_defaults_fill_what_a_contract_leaves_out():
    contract = Contract.from_json(json.dumps(document()))
    assert contract == Contract(name="n", backbone="b", embedding=EmbeddingSpec(length=2))
    assert contract.input == InputSpec(size=112, layout="NHWC", dtype="uint8", colour="RGB")


def test_equal_contracts_are_equal_bytes_whatever_the_order_of_keys():
    fields = document(golden=GOLDEN, hard_faces=HARD_FACES, accuracy={"b": 1, "a": 2})
    backwards = dict(reversed(fields.items()))
    assert Contract.from_json(json.dumps(fields)).to_json() == Contract.from_json(json.dumps(backwards)).to_json()


def test_keys_of_later_versions_are_passed_over():
    text = json.dumps(document(colour_of_the_box="red", input={"size": 96, "shine": 3}))
    assert Contract.from_json(text).input == InputSpec(size=96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "has schema 2, newer than this edgeface knows (1): update edgeface"),
        ({"schema": 9, "embedding": "moved", "input": []}, "has schema 9, newer"),
        ({"schema": "1"}, "contract.schema is not of type int"),
        ({"name": None}, "contract.name is not of type str"),
        ({"embedding": {}}, "contract.embedding has no 'length'"),
        ({"embedding": {"length": 0}}, "embedding.length is 0"),
        ({"embedding": {"length": 10**30}}, f"embedding.length is 1{30 * '0'}, not 1 to 65536"),
        ({"input": {"batch": 10**9}}, "input.batch is 1000000000, not 1 to 4096"),
        ({"embedding": {"length": 2.0}}, "contract.embedding.length is not of type int"),
        ({"embedding": {"length": True}}, "contract.embedding.length is not of type int"),
        ({"embedding": {"length": 2, "normalised": 1}}, "contract.embedding.normalised is not of type bool"),
        ({"input": {"size": 0}}, "input.size is 0"),
        ({"input": {"size": 5000}}, "input.size is 5000"),
        ({"input": {"layout": "CHW"}}, "input.layout is 'CHW'"),
        ({"input": {"dtype": "int8"}}, "input.dtype is 'int8'"),
        ({"input": {"colour": "GBR"}}, "input.colour is 'GBR'"),
        ({"input": {"mean": [1, 2]}}, "contract.input.mean has 2 values, not 3"),
        ({"input": {"mean": {}}}, "contract.input.mean is not a list"),
        ({"input": {"mean": [0, 0, 10**400]}}, "contract.input.mean[2] is too large"),
        ({"input": {"std": [1, 1, 0]}}, "input.std holds a value that is not positive"),
        ({"input": []}, "contract.input is not an object"),
        ({"operators": {"int8": "many"}}, "contract.operators.int8 is not of type int"),
        ({"cost": {"conv": {"count": 1, "macs": 2}}}, "contract.cost.conv has no 'bytes'"),
        ({"golden": {**GOLDEN, "embeddings": [[1.0], [1.0, 0.0]]}}, "golden.embeddings holds a row that is not of 2"),
        (
            {"hard_faces": {**HARD_FACES, "no_face": [1.0, 0.0]}},
            "hard_faces holds a row that is not of 2 weights and a",
        ),
        ({"hard_faces": {"agreement": [1.0, 0.0, 0.0]}}, "contract.hard_faces has no 'no_face'"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(ContractError, match=re.escape(message)):
        Contract.from_json(json.dumps(document(**changes)))


@pytest.mark.parametrize("missing", ["name", "backbone", "embedding"])
def test_a_missing_key_is_named(missing: str):
    fields = document()
    del fields[missing]
    with pytest.raises(ContractError, match=f"contract has no '{missing}'"):
        Contract.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "[" * 100_000,
        '{"schema": NaN}',
        '{"accuracy": {"x": 1e999}}',
        '{"schema": -Infinity}',
        '{"schema": ' + "9" * 5000 + "}",
    ],
)
def test_other_text_is_no_contract(text: str):
    with pytest.raises(ContractError, match="the contract is not"):
        Contract.from_json(text)


def test_a_broken_contract_in_a_file_names_the_file(tiny_onnx: Path, tmp_path: Path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(tiny_onnx.read_bytes().replace(b'"backbone"', b'"backbonE"'))
    with pytest.raises(ContractError, match=r"bad.onnx: contract has no 'backbone'"):
        read_contract(path)


@pytest.fixture(params=["onnx", "tflite"])
def sealed(request: pytest.FixtureRequest, make_onnx: Any, make_tflite: Any, tmp_path: Path) -> Path:
    make: Callable[..., Path] = {"onnx": make_onnx, "tflite": make_tflite}[request.param]
    golden = Golden(probes="p", embeddings=((1.0,) * 8,), min_cosine=0.5)
    return make(tmp_path / f"sealed.{request.param}", name="sealed", golden=golden, licence="ours")


def test_the_digest_is_of_the_file_with_its_digits_as_zeros(sealed: Path):
    digest = read_contract(sealed).file_sha256
    data = sealed.read_bytes()
    assert data.count(digest.encode()) == 1
    assert hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest() == digest
    assert is_intact(sealed)
    assert seal(sealed) == digest
    assert sealed.read_bytes() == data


def test_any_changed_byte_breaks_the_seal(sealed: Path):
    data = sealed.read_bytes()
    rng = np.random.default_rng(0)
    contract = data.index(b'{"accuracy"')
    for spot in {*range(0, len(data), 17), *range(contract, contract + 300)}:
        spoilt = bytearray(data)
        spoilt[spot] ^= 1 << rng.integers(8)
        sealed.write_bytes(spoilt)
        assert not is_intact(sealed), spot
    for more in (data + b"\0", data[:-1]):
        sealed.write_bytes(more)
        assert not is_intact(sealed)


def test_a_file_without_contract_cannot_be_sealed(tmp_path: Path):
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(ContractError, match="carries no contract to seal"):
        seal(tmp_path / "x.onnx")
    assert not is_intact(tmp_path / "x.onnx")
