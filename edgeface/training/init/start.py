"""Where a training starts: published weights, a checkpoint, a wider one pruned to fit, any state dict."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.training.augment import normalize
from edgeface.training.checkpoints import Checkpoint, own_checkpoint
from edgeface.training.config import NORMALIZATIONS, TrainConfig
from edgeface.training.init.prune import is_wider, prune_into
from edgeface.training.init.weights import init_backbone
from edgeface_runtime import InputSpec, UsageError

_EXPORTED = (".onnx", ".ncnn", ".ensemble")
FITTED_FACES = 1000
"""About how many faces a pruned model is fitted on, and one from a TFLite file has its statistics of."""


def start_from(
    net: nn.Module, source: str, config: TrainConfig, *, faces: NDArray[np.uint8], names: str | None = None
) -> str:
    """Fills a model's weights before training, in place, and says what it took.

    A checkpoint of a wider MobileFaceNet is pruned to fit (``edgeface.training.init.prune``), a TFLite file read
    layer by layer (``edgeface.training.init.tflite``); all else goes to ``init_backbone``.

    Args:
        net: as ``build_backbone`` made it.
        source: as ``init_backbone`` takes it.
        config: of the training.
        faces: (N, S, S, 3) uint8 RGB to fit layers on; some thousand of them are looked at.
        names: as ``init_backbone`` takes it.

    Raises:
        UsageError, ModelError: as ``init_backbone``; or a wider model that takes faces of another size or
            normalization.
    """
    if source.endswith(".dat"):
        raise UsageError(
            f"{source}: `python -m reproduce.dlib_start`, in a checkout of edgeface, fits dlib's net into a resnet18 "
            "or vgg11 and writes a checkpoint for --init; docs/backbones.md shows how"
        )
    sample = torch.from_numpy(faces[:: math.ceil(len(faces) / FITTED_FACES)])
    if source.endswith(".tflite"):
        # Imported here: it needs what the extra export brings.
        from edgeface.training.init.tflite import init_from_tflite

        return init_from_tflite(net, Path(source), normalize(sample, *config.model.pixel_statistics))
    if Path(source).suffix in _EXPORTED:
        raise UsageError(f"{source}: an exported file, which cannot be trained on; give the run that it was made of")
    wide = _wider(net, source)
    if wide is None:
        _check_same_net(net, source, config.model.backbone)
        size = config.model.input_size
        return str(init_backbone(net, source, backbone=config.model.backbone, names=names, size=size))
    spec, model = wide.contract.input, config.model
    for key, theirs, ours in (
        ("input_size", spec.size, model.input_size),
        ("normalization", _normalization(spec), model.normalization),
    ):
        if theirs != ours:
            raise UsageError(f"{source}: to prune this model its own {key} is needed: --set {key}={theirs}")
    cosine = prune_into(net, wide.net, normalize(sample, spec.mean, spec.std))
    near = f"mean cosine to it {cosine:.3f} on the {len(sample)} faces that it was fitted on"
    return f"{source}: pruned to {model.backbone}; {near}"


def settings_of(source: str) -> dict[str, object]:
    """Backbone, embedding, input size and normalization of a checkpoint of ours; nothing of any other source.

    Raises:
        UsageError: the fp32 weights of a shipped model are not there.
    """
    checkpoint = own_checkpoint(source)
    if checkpoint is None:
        return {}
    spec = checkpoint.contract.input
    found = {
        "backbone": checkpoint.contract.backbone,
        "embedding_dim": checkpoint.contract.embedding.length,
        "input_size": spec.size,
    }
    normalization = _normalization(spec)
    return found | ({"normalization": normalization} if normalization in NORMALIZATIONS else {})


def _check_same_net(net: nn.Module, source: str, backbone: str) -> None:
    """A checkpoint of ours may lack layers and have another embedding; a part of its other layers is worth nothing."""
    checkpoint = own_checkpoint(source)
    if checkpoint is None:
        return
    ours = {name: tensor.shape for name, tensor in net.state_dict().items()}
    theirs = {name: tensor.shape for name, tensor in checkpoint.net.state_dict().items() if tensor.ndim > 1}
    lost = [name for name, shape in theirs.items() if ours.get(name) != shape]
    if len(lost) > 1:
        raise UsageError(
            f"{source}: is a {checkpoint.contract.backbone}, of whose {len(theirs)} layers {len(lost)} do not fit a "
            f"{backbone}; leave --backbone out to go on with it"
        )


def _wider(net: nn.Module, source: str) -> Checkpoint | None:
    """The checkpoint that is meant where it is one of ours with the net's layers and more channels."""
    checkpoint = own_checkpoint(source)
    if checkpoint is None or not is_wider(checkpoint.net, net):
        return None
    theirs, ours = checkpoint.net.state_dict(), net.state_dict()
    return None if all(theirs[name].shape == ours[name].shape for name in ours) else checkpoint


def _normalization(spec: InputSpec) -> str:
    known = [name for name, (mean, std) in NORMALIZATIONS.items() if (mean, std) == (spec.mean, spec.std)]
    return known[0] if known else f"mean {spec.mean}, std {spec.std}"
