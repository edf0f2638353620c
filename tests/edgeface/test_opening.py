from pathlib import Path

import numpy as np
import pytest

from edgeface.evaluation.opening import open_embedder
from edgeface_runtime import ModelError
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
