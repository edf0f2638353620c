"""What training does on a device that is not the CPU, by a stand-in: a second device that computes on the CPU.

It goes by the name ``meta``, the one device beside the CPU whose gradients a PyTorch without a GPU computes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from edgeface.backbones import build_backbone
from edgeface.data.dataset import FaceData
from edgeface.embedder import Embedder
from edgeface.evaluation.opening import open_embedder
from edgeface.training import devices
from edgeface.training.augment import draw
from edgeface.training.checkpoints import contract_draft, load_checkpoint, load_tensors, save_tensors
from edgeface.training.config import load_config
from edgeface.training.distill.teachers import rotate_to_student
from edgeface.training.loop import train
from edgeface.training.qat import finetune
from edgeface.training.record import read_record
from edgeface.training.training_state import Pool
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import InputSpec, UsageError

SECOND, CPU = torch.device("meta"), torch.device("cpu")
SHORT = {"backbone": "mobilefacenet:width=0.25", "embedding_dim": 16, "batch_size": 8, "epochs": 1, "lr": 1e-3}


class There(torch.Tensor):
    """A tensor on the second device."""

    @staticmethod
    def __new__(cls, here: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=SECOND, requires_grad=here.requires_grad
        )

    def __init__(self, here: torch.Tensor) -> None:
        self.here = here

    def tolist(self):
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func, args, kwargs):
    """On the CPU, of tensors that all lie on one of the two devices, as a GPU asks for."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    name, wanted = func._schema.name, kwargs.get("device")
    device = SECOND if there else CPU
    if name == "aten::_to_copy" or (wanted is not None and not tensors):
        device = device if wanted is None else torch.device(wanted)
    elif there and name not in ("aten::copy_", "aten::index.Tensor"):
        assert all(isinstance(tensor, There) or not tensor.ndim for tensor in tensors), f"{name}: two devices"
    kwargs = kwargs | {"device": CPU} if wanted is not None else kwargs
    found = func(*(bare := tree_map(plain, (args, kwargs)))[0], **bare[1])
    if name == "aten::copy_" or func._schema.is_mutable:
        known = {id(tensor.here): tensor for tensor in there}
        return tree_map(lambda each: known.get(id(each), each), found)
    return tree_map(lambda each: There(each) if isinstance(each, torch.Tensor) and device == SECOND else each, found)


def plain(value):
    return value.here if isinstance(value, There) else value


class SecondDevice(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def on_second(monkeypatch: pytest.MonkeyPatch) -> Callable[[], SecondDevice]:
    """Makes runs compute there."""

    def begin() -> SecondDevice:
        autocast = torch.autocast  # knows no meta
        monkeypatch.setattr(torch, "autocast", lambda kind, **how: autocast("cpu" if kind == "meta" else kind, **how))
        monkeypatch.setattr(accelerate.Accelerator, "device", SECOND)
        return SecondDevice()

    return begin


def people() -> FaceData:
    """Sixteen faces of four people to train on, four to validate on: coarse noise, in part the person's own."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 5)
    coarse = rng.integers(0, 128, (4, 7, 7, 3))[labels] + rng.integers(0, 128, (20, 7, 7, 3))
    pixels = coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)
    split = np.array(["train", "train", "train", "train", "val"] * 4)
    return FaceData(pixels, labels, tuple("abcd"), tuple(f"{number}.png" for number in range(20)), split)


def teacher() -> Embedder:
    rng = np.random.default_rng(1)
    draft = contract_draft(load_config(**SHORT), data_sha256="0" * 64, licence="unknown")
    mixing = rng.normal(size=(7 * 7 * 3, 16))
    return Embedder(draft, lambda faces: (faces[:, ::16, ::16].reshape(len(faces), -1) @ mixing).astype(np.float32))


def test_a_run_on_another_device_ends_with_the_weights_of_one_on_the_cpu(tmp_path: Path, on_second):
    data, small = people(), SHORT | {"progressive_size": 32, "batch_size": 16}
    kinds = small | {
        "adversarial": "pgd",
        "adversarial_steps": 1,
        "class_sampling": 0.9,
        "ema_decay": 0.9,
        "imprint_head": True,
    }
    train(data, tmp_path / "cpu", load_config(**kinds), teachers=[teacher()])
    guide = load_checkpoint(tmp_path / "cpu")
    train(data, tmp_path / "guided", load_config(**small), feature_teacher=guide)
    with on_second():
        curves = train(data, tmp_path / "there", load_config(**kinds), teachers=[teacher()])
        train(data, tmp_path / "guided-there", load_config(**small), feature_teacher=guide)
    assert curves[0].val_loss is not None
    for one, other in (("cpu", "there"), ("guided", "guided-there")):
        tensors, _ = load_tensors(tmp_path / one / "last.safetensors")
        theirs, _ = load_tensors(tmp_path / other / "last.safetensors")
        assert tensors.keys() == theirs.keys()
        assert all(torch.equal(tensors[name], theirs[name]) for name in tensors)


def test_faces_stay_on_a_device_that_has_room_and_are_copied_where_it_has_not(monkeypatch):
    data, rows = people(), np.array([21, 3, 0, 19, 20])
    more = np.random.default_rng(2).integers(0, 256, (2, 112, 112, 3), np.uint8)
    targets = np.random.default_rng(3).normal(size=(22, 16)).astype(np.float32)
    expected = Pool(data, more, targets, CPU).batch(rows)
    for free, stays in ((10**7, True), (10**6, False)):
        monkeypatch.setattr("edgeface.training.training_state.free_memory", lambda device, free=free: free)
        with SecondDevice():
            pool = Pool(replace(data, faces=data.faces.copy()), more, targets, SECOND)
            found = pool.batch(rows)
            assert all(isinstance(part, There) for part in found)
            assert all(torch.equal(part.here, other) for part, other in zip(found, expected, strict=True))
            pool.data.faces[:] = 0
            assert bool((pool.batch(rows)[0] == found[0]).all()) == stays
    assert Pool(data, None, None, CPU).kept is None


class Copies(TorchFunctionMode):
    """Notes each copy to a GPU: whether from pinned memory, and whether it waits; the copy itself stays on the CPU."""

    def __init__(self) -> None:
        self.pinned: list[int] = []
        self.copies: list[tuple[bool, bool]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.pin_memory:
            self.pinned.append(id(args[0]))
            return args[0]
        if func is torch.Tensor.to and torch.device("cuda") in args[1:]:
            self.copies.append((id(args[0]) in self.pinned, (kwargs or {}).get("non_blocking", False)))
            return args[0]
        return func(*args, **(kwargs or {}))


def test_copies_to_a_gpu_come_from_pinned_memory_and_do_not_wait(monkeypatch):
    monkeypatch.setattr("edgeface.training.training_state.free_memory", lambda device: 0)
    gpu, targets = torch.device("cuda"), np.zeros((20, 16), np.float32)
    with Copies() as seen:
        faces, *_ = Pool(people(), None, targets, gpu).batch(np.arange(4))
        draw(8, torch.Generator()).part(slice(0, 4), gpu)
    assert faces.shape == (4, 112, 112, 3)
    assert seen.copies == [(True, True)] * 4  # faces, labels, targets, and all random numbers at once


def test_finetuning_for_int8_and_embedding_take_place_on_the_device(tmp_path: Path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(900, 8)).eval()
    faces, spec = people().faces[:, ::3, ::3][:, :32, :32].copy(), InputSpec(size=32)
    expected, embedded = finetune(net, spec, faces, steps=10, device=CPU), torch_embeddings(net, spec, faces)
    calls: list[str] = []
    net[0].register_forward_hook(lambda module, inputs, output: calls.append(type(output).__name__))
    with SecondDevice():
        found = finetune(net, spec, faces, steps=10, device=SECOND)
        np.testing.assert_array_equal(torch_embeddings(net.to(SECOND), spec, faces), embedded)
    assert set(calls) == {"There"}
    assert (found.before, found.after) == (expected.before, expected.after)
    for mine, other in zip(found.net.state_dict().values(), expected.net.state_dict().values(), strict=True):
        assert mine.device == CPU
        assert torch.equal(plain(mine), other)


def test_models_of_ours_teach_and_are_evaluated_on_the_device(tmp_path: Path, monkeypatch):
    config, faces = load_config(**SHORT), people().faces[:6]
    net = build_backbone(config.model.backbone, embedding=16, size=112).eval()
    contract = contract_draft(config, data_sha256="0" * 64, licence="unknown")
    path = tmp_path / "net.safetensors"
    save_tensors(path, net.state_dict(), {"contract": json.loads(contract.to_json())})
    targets = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)

    def both() -> tuple[np.ndarray, np.ndarray]:
        turned = rotate_to_student(targets, net, (targets, faces), config, tmp_path / f"{len(ran)}.npy")
        return open_embedder(path).embed(faces), turned

    ran: list[str] = []
    hook = register_module_forward_hook(lambda module, inputs, output: ran.append(type(output).__name__))
    expected = both()
    assert set(ran) == {"Tensor"}
    ran.clear()
    monkeypatch.setattr(devices, "best_device", lambda: SECOND)
    monkeypatch.setattr("edgeface.training.distill.teachers.best_device", lambda: SECOND)
    with SecondDevice():
        found = both()
    hook.remove()
    assert set(ran) == {"There"}
    assert all(map(np.array_equal, found, expected))
    assert next(net.parameters()).device == CPU


def test_the_record_says_device_tf32_and_memory_format(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU of a test")
    found = devices.described(torch.device("cuda"))
    assert (found["device"], found["memory_format"]) == ("GPU of a test", "channels_last")
    assert found["tf32"] == "convolutions"  # PyTorch's default
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert devices.described(torch.device("cuda"))["tf32"] == "no"
    train(people(), tmp_path / "run", load_config(**SHORT))
    environment = read_record(tmp_path / "run").environment
    assert (environment["device"], environment["tf32"], environment["memory_format"]) == ("cpu", "no", "channels_last")


def test_a_run_says_that_it_compiles_before_it_does(tmp_path: Path, monkeypatch):
    events: list[str] = []

    class Told:
        def say(self, line: str, *, heading: bool = False) -> None:
            events.append(line)

        track = staticmethod(lambda items, title: iter(items))

    monkeypatch.setattr(nn.Module, "compile", lambda module: events.append("compiled"))
    train(people(), tmp_path / "run", load_config(**SHORT, compile=True), reporter=Told())
    assert events[:2] == [devices.COMPILING, "compiled"]


def lacking_above(count: int, error: Exception) -> Callable[[nn.Module], None]:
    """A net that more faces than these are too many for."""

    def register(net: nn.Module) -> None:
        def refuse(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if len(inputs[0]) > count:
                raise error

        net.register_forward_pre_hook(refuse)

    return register


@pytest.mark.parametrize(("count", "said"), [
    (3, r"a batch of 8 does not fit into memory, 2 faces do; try --set batch_size=2"),
    (1, r"a batch of 8 does not fit into memory, nor does one of 2; take a smaller backbone or input_size"),
])  # fmt: skip
@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
])  # fmt: skip
def test_a_batch_that_does_not_fit_names_one_that_was_tried(count: int, said: str, error: Exception, tmp_path: Path):
    with pytest.raises(UsageError, match=f"^{said}$"):
        train(people(), tmp_path / "run", load_config(**SHORT), init=lacking_above(count, error))


def test_an_error_that_is_not_of_memory_stays_what_it_is(tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        train(people(), tmp_path / "run", load_config(**SHORT), init=lacking_above(3, RuntimeError("shapes differ")))


def test_the_device_is_a_gpu_where_there_is_one_and_it_is_wanted(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.best_device() == torch.device("cuda:1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert devices.best_device() == CPU
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.best_device() == CPU
