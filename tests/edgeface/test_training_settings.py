"""Every key of the training configuration changes what a run ends with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from edgeface.backbones import build_backbone
from edgeface.data.dataset import FaceData
from edgeface.training.checkpoints import Checkpoint, contract_draft, load_checkpoint, load_tensors, save_tensors
from edgeface.training.config import KEYS, load_config
from edgeface.training.loop import train
from edgeface_runtime import UsageError

# Three steps of twelve faces: enough for a rate, a margin and an average to be somewhere on their way.
BASE = {"backbone": "mobilefacenet:width=0.25", "embedding_dim": 16, "batch_size": 4, "epochs": 1, "lr": 1e-3}
RESNET = {"backbone": "resnet18", "mixed_precision": "bf16"}
SMALL = {"progressive_size": 64, "progressive_ratio": 0.4, "epochs": 2}
TAUGHT = {"guide": True}
STILL = {"lr": 1e-12, "epochs": 3}  # nothing gets better
# Key → a value, and what else holds for the run with it and for the run without.
CASES: dict[str, tuple[object, dict[str, object]]] = {
    "backbone": ("mobilefacenet:width=0.25,act=relu", {}),
    "embedding_dim": (8, {}),
    "input_size": (224, {}),
    "normalization": ("imagenet", {}),
    "loss": ("cosface", {}),
    "logit_scale": (30.0, {}),
    "margin": (0.5, {}),
    "margin_warmup_ratio": (1.0, {}),
    "class_sampling": (0.1, {"batch_size": 2}),
    "batch_size": (6, {}),
    "balanced_sampling": (True, {}),
    "optimizer": ("sgd", {}),
    "lr": (1e-2, {}),
    "embedding_lr_scale": (0.0, RESNET),
    "weight_decay": (0.5, {}),
    "grad_clip_norm": (1e-9, {}),
    "ema_decay": (0.9, {}),
    "epochs": (2, {}),
    "warmup_ratio": (0.9, {}),
    "early_stopping_patience": (1, STILL),
    "progressive_size": (64, {"epochs": 2}),
    "progressive_ratio": (0.2, SMALL | {"epochs": 3}),
    "full_size_lr_scale": (0.1, SMALL),
    "fit_embedding": (True, RESNET | TAUGHT),
    "imprint_head": (True, {}),
    "classification_weight": (0.0, TAUGHT),
    "distill_weight": (1.0, TAUGHT),
    "hint_weight": (0.0, TAUGHT),
    "flip_prob": (1.0, {}),
    "rotation_degrees": (0.0, {}),
    "scale_jitter": (0.3, {}),
    "translate_ratio": (0.0, {}),
    "color_jitter": (0.0, {}),
    "blur_prob": (1.0, {}),
    "downscale_prob": (1.0, {}),
    "erase_prob": (1.0, {}),
    "turn_prob": (1.0, {}),
    "turn_degrees": (20.0, {"turn_prob": 1.0}),
    "adversarial": ("fgsm", {}),
    "adversarial_eps": (8.0, {"adversarial": "fgsm"}),
    "adversarial_steps": (5, {"adversarial": "pgd"}),
    "adversarial_ratio": (1.0, {"adversarial": "fgsm"}),
    "seed": (1, {}),
    "mixed_precision": ("bf16", {}),
}


def faces(size: int) -> FaceData:
    """Twelve faces of three people to train on and three to validate on: coarse noise, in part the person's own."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    coarse = rng.integers(0, 256, (3, 7, 7, 3))[labels] // 2 + rng.integers(0, 128, (15, 7, 7, 3))
    pixels = coarse.repeat(size // 7, axis=1).repeat(size // 7, axis=2).astype(np.uint8)
    split = np.array(["train", "train", "train", "train", "val"] * 3)
    return FaceData(pixels, labels, ("a", "b", "c"), tuple(f"{number}.png" for number in range(15)), split)


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("guide") / "best.safetensors"
    config = load_config(backbone="mobilefacenet:width=0.25", embedding_dim=16)
    torch.manual_seed(3)
    net = build_backbone(config.model.backbone, embedding=16, size=112)
    contract = contract_draft(config, data_sha256="", licence="test")
    save_tensors(path, net.state_dict(), {"contract": json.loads(contract.to_json())})
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def ended(guide: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """What a run with some settings ends with: a digest of its weights, curves and contract; each is run once."""
    known: dict[str, str] = {}

    def run(settings: dict[str, object]) -> str:
        name = json.dumps(settings, sort_keys=True)
        if name not in known:
            taught = {"feature_teacher": guide} if settings.get("guide") else {}
            config = load_config(**{key: value for key, value in settings.items() if key != "guide"})
            folder = tmp_path_factory.mktemp("run") / "run"
            curves = train(faces(config.model.input_size), folder, config, **taught)
            digest = hashlib.sha256(repr(curves).encode())
            tensors, document = load_tensors(folder / "best.safetensors")
            digest.update(json.dumps(document, sort_keys=True).encode())
            for name in sorted(tensors):
                digest.update(name.encode() + tensors[name].numpy().tobytes())
            known[name] = digest.hexdigest()
        return known[name]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


def test_every_key_is_set_here():
    assert {*CASES, "compile"} == KEYS.keys()


def test_the_same_settings_end_with_the_same(ended):
    assert ended(BASE) == ended(BASE | {"seed": 0, "flip_prob": 0.5})


@pytest.mark.parametrize("key", CASES)
def test_each_key_changes_what_a_run_ends_with(key: str, ended):
    value, also = CASES[key]
    settings = BASE | also
    assert ended(settings | {key: value}) != ended(settings)


def test_compile_compiles_the_backbone_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))  # minutes on a CPU
    kept: list[torch.nn.Module] = []
    for name, on in (("plain", False), ("compiled", True)):
        train(faces(112), tmp_path / name, load_config(**BASE, compile=on), init=kept.append)
    assert len(compiled) == 1
    assert compiled[0] is kept[1]


OLD_TENSORS = (("optimizer.", "optimiser."), ("learner.feature_teacher.", "learner.guide."))
OLD_KEYS = {
    "embedding_dim": "embedding", "input_size": "size", "normalization": "normalise", "loss": "head",
    "logit_scale": "s", "margin": "m", "margin_warmup_ratio": "margin_warmup", "batch_size": "batch",
    "balanced_sampling": "balanced", "optimizer": "optimiser", "embedding_lr_scale": "embed_rate",
    "grad_clip_norm": "clip", "ema_decay": "ema", "warmup_ratio": "warmup", "early_stopping_patience": "patience",
    "progressive_size": "small", "progressive_ratio": "small_share", "full_size_lr_scale": "full_rate",
    "fit_embedding": "refit", "imprint_head": "imprint", "classification_weight": "classify",
    "distill_weight": "distil", "hint_weight": "hint", "flip_prob": "flip", "rotation_degrees": "rotate",
    "scale_jitter": "scale", "translate_ratio": "shift", "color_jitter": "colour", "blur_prob": "blur",
    "downscale_prob": "downscale", "erase_prob": "erase", "mixed_precision": "precision",
}  # fmt: skip


class Interrupted:
    """Ctrl-C after the first epoch, or what is said where there is none."""

    def __init__(self, at: str) -> None:
        self.at, self.lines = at, []

    def say(self, line: str, *, heading: bool = False) -> None:
        self.lines.append(line)
        if self.at and self.at in line:
            raise KeyboardInterrupt

    def track(self, items, title: str):
        return iter(items)


def test_a_run_saved_under_the_old_names_resumes_to_the_same_weights(guide: Checkpoint, tmp_path: Path):
    config = load_config(**BASE | {"epochs": 2, "ema_decay": 0.9})
    train(faces(112), tmp_path / "whole", config, feature_teacher=guide)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(faces(112), broken, config, feature_teacher=guide, reporter=Interrupted("Epoch 1/2"))
    last = broken / "last.safetensors"
    tensors, document = load_tensors(last)
    flat = {key: value for group in document["config"].values() for key, value in group.items()}
    document["config"] = {OLD_KEYS.get(key, key): value for key, value in flat.items()}
    for new, old in OLD_TENSORS:
        assert any(name.startswith(new) for name in tensors)
        tensors = {old + name.removeprefix(new) if name.startswith(new) else name: x for name, x in tensors.items()}
    save_tensors(last, tensors, document)

    heard = Interrupted("")
    other = load_config(**BASE | {"epochs": 2, "ema_decay": 0.8})
    with pytest.raises(UsageError, match="started with another ema_decay; resume with the same settings"):
        train(faces(112), broken, other, feature_teacher=guide, resume=True)
    train(faces(112), broken, config, feature_teacher=guide, resume=True, reporter=heard)
    assert heard.lines[0].startswith(f"{last}: embedding is called embedding_dim, ")
    for name in ("best.safetensors", "last.safetensors"):
        (expected, _), (found, _) = load_tensors(tmp_path / "whole" / name), load_tensors(broken / name)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
