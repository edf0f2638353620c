"""torchvision beside a torch of another build: repaired once, left alone where it fits."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from edgeface_export import torchvision_repair
from edgeface_runtime.errors import UsageError

pytest.importorskip("torch")


@pytest.fixture
def installed() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")


@pytest.mark.usefixtures("installed")
def test_repaired_torchvision_suppresses_as_the_definition_says() -> None:
    torchvision_repair.repair()
    import torch
    import torchvision

    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.uniform(0, 50, (60, 2)).astype(np.float32))
    boxes = torch.cat([start, start + 12], dim=1)
    scores = torch.from_numpy(rng.random(60).astype(np.float32))
    kept = torchvision.ops.nms(boxes, scores, 0.4).tolist()
    iou = torchvision.ops.box_iou(boxes, boxes)
    expected: list[int] = []
    for i in torch.argsort(scores, descending=True).tolist():
        if all(iou[i, j] <= 0.4 for j in expected):
            expected.append(i)
    assert kept == expected
    assert torchvision.models.resnet18().fc.out_features == 1000


@pytest.mark.usefixtures("installed")
def test_a_second_call_changes_nothing() -> None:
    assert torchvision_repair.repair() == torchvision_repair.repair()


FITTING = """
import sys, types, torch
from pathlib import Path
package = Path(sys.argv[1]) / "torchvision"
package.mkdir()
(package / "__init__.py").write_text("fits = True")
(package / "_C.so").touch()
sys.path.insert(0, sys.argv[1])
torch.ops.load_library = lambda path: None
from edgeface_export.torchvision_repair import repair
assert repair() is False
import torchvision
assert torchvision.fits and not hasattr(torch.ops.torchvision, "nms")
"""


def test_a_fitting_install_is_left_alone(tmp_path: object) -> None:
    subprocess.run([sys.executable, "-c", FITTING, str(tmp_path)], check=True)


def test_no_torchvision_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install torchvision"):
        torchvision_repair.repair()
