"""Any net of timm by its name: ``timm:mobilenetv4_conv_small`` (R. Wightman, PyTorch Image Models; extra ``timm``).

What training, QAT and exports rely on is made here: the net is followed once with torch.fx, so that it holds what it
computes with and nothing else, in torch's own layers where timm's do two things at once.
"""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from edgeface.backbones.layers import Pooled
from edgeface_export.torchvision_repair import repair
from edgeface_runtime import UsageError


def timm_net(name: str, embedding: int, size: int, pool: str = "mean") -> nn.Module:
    """(N, 3, S, S) normalised RGB → (N, embedding) float; weights are random, and nothing is downloaded.

    timm's net up to its last feature map, and the embedding of ``resnet18`` behind it. A net without one (tokens, or
    channels last) is taken with its own pooling.

    Args:
        name: as ``timm.list_models`` has it, with a tag or without.
        embedding: length of the output.
        size: S.
        pool: as in ``resnet18``.

    Raises:
        UsageError: no such net, one that does not take this size, or one that exports could not follow.
        ModuleNotFoundError: timm is not installed.
    """
    trunk, channels, side = _trunk(name, size)
    if pool == "none" and not side:
        raise UsageError(f"timm:{name}: pool=none needs a feature map, and it gives none")
    # Its own random weights: not all of its layers are convolutions before a batch norm.
    net = Pooled(trunk, channels, embedding, side if pool == "none" else 0, start=False)
    known = _known(_timm(), name)
    net.takes_other_sizes = known is None or not known.fixed_input_size
    return net


def published_weights(name: str, size: int) -> dict[str, Tensor]:
    """timm's published weights under the names of ``timm_net``, from the Hugging Face Hub or its cache (``HF_HOME``).

    Raises:
        UsageError: as ``timm_net``, or there are none, or they cannot be fetched.
    """
    trunk, _, _ = _trunk(name, size, pretrained=True)
    return {f"trunk.{key}": value for key, value in trunk.state_dict().items()}


def licence_of_weights(name: str) -> str:
    """The licence that timm states for its published weights, with their name; nothing is fetched.

    Raises:
        UsageError: timm has no such net or no weights of it.
    """
    known = _known(_timm(), name)
    if known is None or not known.has_weights:
        raise UsageError(f"timm has no published weights of {name}")
    return f"{known.license or 'unknown'} (timm's {known.architecture}.{known.tag})"


def is_net(name: str) -> bool:
    """True where timm has a net of this name, with a tag or without."""
    return bool(_timm().is_model(name.partition(".")[0]))


def _timm() -> ModuleType:
    repair()  # timm imports torchvision
    import timm

    return timm  # type: ignore[no-any-return]


def _known(timm: ModuleType, name: str) -> Any:
    """What timm knows of a net by this name and tag; None where it has published no weights.

    Raises:
        UsageError: no such net or tag.
    """
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), 4, 0.4)
        raise UsageError(f"timm has no net {plain!r}; near it: {', '.join(near) or 'none'}")
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(plain)]
        raise UsageError(f"timm has no weights {tag!r} of {plain}; there are: {', '.join(tags) or 'none'}") from error


def _trunk(name: str, size: int, *, pretrained: bool = False) -> tuple[nn.Module, int, int]:
    """The net without its classifier, its channels, and the side of its last map (0 where it has none)."""
    timm = _timm()
    known = _known(timm, name)
    if pretrained:
        licence_of_weights(name)
    is_fixed = known is not None and known.fixed_input_size
    given = {"img_size": size} if is_fixed else {}
    try:
        net = timm.create_model(name, pretrained=pretrained, num_classes=0, **given).eval()
    except OSError as error:  # of the network, or of the Hub's client where a file is not in its cache
        raise UsageError(f"timm's weights of {name} cannot be fetched ({_line(error)})") from error
    except Exception as error:
        raise UsageError(f"timm:{name}: cannot be made for {size} pixels ({_line(error)})") from error
    probe = torch.zeros(1, 3, size, size)
    try:
        with torch.no_grad():
            found = net.forward_features(probe)
            is_map = isinstance(found, Tensor) and found.ndim == 4 and found.shape[1] == net.num_features
            if not is_map:
                found = net(probe)
    except Exception as error:
        raise UsageError(f"timm:{name}: does not take {size} pixels ({_line(error)})") from error
    _split_norms(net)
    tracer = torch.fx.Tracer()
    tracer.traced_func_name = "forward_features" if is_map else "forward"
    try:
        graph = tracer.trace(net)
    except Exception as error:
        raise UsageError(
            f"timm:{name}: cannot be exported, its graph depends on what it sees ({_line(error)})"
        ) from error
    trunk: nn.Module = torch.fx.GraphModule(net, graph)  # without the layers that it does not pass
    channels = int(found.shape[1])
    if is_map:
        return trunk, channels, int(found.shape[2])
    return nn.Sequential(trunk, nn.Unflatten(1, (channels, 1, 1))), channels, 0


def _split_norms(net: nn.Module) -> None:
    """Makes timm's batch norm with an activation the two layers that it is: exports fold the one, keep the other."""
    from timm.layers import BatchNormAct2d

    for name, layer in list(net.named_modules()):
        if isinstance(layer, BatchNormAct2d):
            norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum)
            norm.load_state_dict(layer.state_dict())
            net.set_submodule(name, nn.Sequential(norm.train(layer.training), layer.drop, layer.act))


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
