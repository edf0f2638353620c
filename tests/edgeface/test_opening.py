from pathlib import Path

import numpy as np
import pytest

from edgeface.evaluation.opening import open_embedder, read_contract_file
from edgeface_runtime import Contract, ContractError, EmbeddingSpec, ModelError
from edgeface_runtime.model import find_model

FACES = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)


@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenet.onnx", "mobilefacenet-tiny"])
def test_the_name_of_a_shipped_model_opens_its_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    expected = open_embedder(find_model(name)).embed(FACES)
    np.testing.assert_array_equal(open_embedder(name).embed(FACES), expected)


def test_a_name_that_no_model_has_is_told_the_nearest():
    with pytest.raises(ModelError, match="did you mean mobilefacenet"):
        open_embedder("mobilefacent")


CONTRACT = """name = "theirs"
backbone = "theirs"
[input]
size = 112
{}
[embedding]
length = 128
"""


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('color = "BGR"', r"input\.color is no key of a contract; did you mean colour\?"),
        ("means = [0, 0, 0]", r"input\.means is no key of a contract; did you mean mean\?"),
        ("xyz = 1", r"input\.xyz is no key of a contract; there are size, layout, dtype"),
        ("[golden_vectors]", r"golden_vectors is no key of a contract"),
    ],
)
def test_a_mistyped_key_of_a_contract_file_is_refused(key: str, message: str, tmp_path: Path):
    path = tmp_path / "contract.toml"
    path.write_text(CONTRACT.format(key))
    with pytest.raises(ContractError, match=message):
        read_contract_file(path)
    path.write_text(CONTRACT.format('colour = "BGR"'))
    assert read_contract_file(path).input.colour == "BGR"


def test_a_contract_file_may_hold_all_that_a_contract_does(tmp_path: Path):
    contract = Contract(name="theirs", backbone="theirs", embedding=EmbeddingSpec(length=8), accuracy={"any": 1})
    (tmp_path / "contract.json").write_text(contract.to_json())
    assert read_contract_file(tmp_path / "contract.json") == contract
    (tmp_path / "contract.json").write_text("{")
    with pytest.raises(ContractError, match=r"contract\.json"):
        read_contract_file(tmp_path / "contract.json")
