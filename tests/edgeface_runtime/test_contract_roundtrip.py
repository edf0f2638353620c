from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface_runtime import Contract, ContractError, EmbeddingSpec, InputSpec
from edgeface_runtime.contract import Golden, OperatorCost

floats = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-6, 1e6)
names = st.text(max_size=12)
counts = st.integers(0, 2**53)
values = st.recursive(
    st.none() | st.booleans() | counts | floats | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
inputs = st.builds(
    InputSpec,
    size=st.integers(1, 4096),
    layout=st.sampled_from(["NHWC", "NCHW"]),
    dtype=st.sampled_from(["uint8", "float32"]),
    colour=st.sampled_from(["RGB", "BGR"]),
    mean=st.tuples(floats, floats, floats),
    std=st.tuples(positive, positive, positive),
)


@st.composite
def contracts(draw: Any) -> Contract:
    length = draw(st.integers(1, 4))
    rows = st.lists(st.tuples(*[floats] * length), max_size=4).map(tuple)
    golden = st.builds(Golden, probes=names, embeddings=rows, min_cosine=st.floats(-1, 1))
    return Contract(
        name=draw(names),
        backbone=draw(names),
        recipe=draw(names),
        input=draw(inputs),
        embedding=EmbeddingSpec(length=length, normalised=draw(st.booleans())),
        data_sha256=draw(st.none() | names),
        calibration=draw(st.none() | st.dictionaries(names, values, max_size=2)),
        accuracy=draw(st.dictionaries(names, values, max_size=3)),
        golden=draw(st.none() | golden),
        operators=draw(st.dictionaries(names, counts, max_size=3)),
        cost=draw(st.dictionaries(names, st.builds(OperatorCost, count=counts, macs=counts, bytes=counts), max_size=2)),
    )


@settings(max_examples=80, deadline=None)
@given(contracts())
def test_a_contract_comes_back_as_it_was(contract: Contract):
    text = contract.to_json()
    again = Contract.from_json(text)
    assert again == contract
    assert again.to_json() == text
    assert json.loads(text) == json.loads(json.dumps(dataclasses.asdict(contract)))


@settings(max_examples=150, deadline=None)
@given(contracts(), st.data())
def test_any_json_in_any_place_is_a_contract_or_a_contract_error(contract: Contract, data: st.DataObject):
    document = json.loads(contract.to_json())
    where = document
    key = data.draw(st.sampled_from(sorted(where)))
    if isinstance(where[key], dict) and where[key] and data.draw(st.booleans()):
        where = where[key]
        key = data.draw(st.sampled_from(sorted(where)))
    where[key] = data.draw(values)
    try:
        again = Contract.from_json(json.dumps(document))
    except ContractError:
        return
    assert Contract.from_json(again.to_json()) == again
