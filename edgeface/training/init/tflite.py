"""A MobileFaceNet's weights from a float TFLite file, whose converter has folded batch norm into the layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeface.backbones.mobilefacenet import MobileFaceNet
from edgeface_export.formats.tflite_graph import constant, named_operators, read_graph
from edgeface_runtime import ModelError, UsageError

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT

_CONVOLUTIONS = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2)}
"""Operator → the order in which torch has the axes of its weights."""
_SAME = 0
"""The schema's number for padding at the end of an uneven stride."""
_OTHER = "its layers are not those of a mobilefacenet"


@dataclass(frozen=True)
class FileLayer:
    """A convolution of the file, with what follows it."""

    weight: Tensor
    """(out, in / groups, k, k)."""
    bias: Tensor
    """(out,)."""
    slopes: Tensor | None = None
    """(out,), of PReLU."""
    active: bool = False
    """Whether any activation follows."""
    same_padding: bool = False
    """Whether it has a stride of 2 and pads as TensorFlow does."""


@torch.no_grad()
def init_from_tflite(net: nn.Module, source: Path, faces: Tensor) -> str:
    """Copies the layers of a float TFLite file into a MobileFaceNet, in place, and says what it took.

    The net then computes what the file does. Batch norm gets the statistics of ``faces``, so that its first
    training steps do not change that. Linear 1×1 convolutions that the net does not have are multiplied into the
    next one. An embedding longer than the net's is projected onto the principal axes of the faces' embeddings,
    which keeps their cosines best.

    Args:
        net: as ``build_backbone`` made it.
        source: the file.
        faces: (N, 3, S, S) float, normalized as the file's model wants them.

    Raises:
        UsageError: the net is no MobileFaceNet, or pads otherwise than the file's.
        ModelError: no float TFLite file, or its layers are not the net's.
    """
    if not isinstance(net, MobileFaceNet):
        raise UsageError(f"{source}: a TFLite file can start a mobilefacenet, no other net")
    layers = read_layers(source)
    same = any(layer.same_padding for layer in layers)
    if same != net.same_padding:
        raise UsageError(f"{source}: it pads otherwise: --backbone mobilefacenet:padding={'same' if same else 'both'}")
    *modules, embed = (module for module in net.modules() if isinstance(module, nn.Conv2d))
    layers = _turned(_fitted(layers, [module.weight for module in [*modules, embed]], source))
    _fill(net, layers, source)
    features = _set_statistics(net.eval(), embed, faces)
    last, length = layers[-1], embed.out_channels
    longer = len(last.bias)
    embeddings = F.normalize(features @ last.weight.flatten(1).T + last.bias)
    axes = torch.linalg.eigh(embeddings.T @ embeddings).eigenvectors[:, -length:].T if length < longer else None
    weight, bias = last.weight, last.bias
    if axes is not None:
        weight, bias = torch.einsum("po,oikl->pikl", axes, weight), axes @ bias
    norm: Any = net.layers[-2]
    embed.weight.copy_(weight)
    outputs = features @ weight.flatten(1).T
    _keep(norm, outputs.mean(0), outputs.var(0, correction=0), bias)
    kept = f", the embedding as {length} principal axes of its {longer} numbers" if axes is not None else ""
    return f"{source}: {len(layers)} layers taken{kept}"


def read_layers(source: Path) -> list[FileLayer]:
    """The convolutions of a float TFLite file in the order in which it computes them.

    PReLU may be one operator or the several that converters write it as.

    Raises:
        ModelError: not a TFLite file, its weights are no floats, or its layers are of another kind.
    """
    try:
        model = read_graph(source)
    except Exception as error:  # The flatbuffer's reader fails in any way on bytes that are none.
        raise ModelError(f"{source}: cannot be read as a TFLite file") from error
    try:
        return list(_layers(model, source))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"{source}: {_OTHER}") from error


def _layers(model: ModelT, source: Path) -> Iterator[FileLayer]:
    tensors, floats = model.subgraphs[0].tensors, 0
    made_by: dict[int, str] = {}
    padded_behind = False
    layer: FileLayer | None = None
    for operator, name, _ in named_operators(model):
        made_by |= dict.fromkeys(operator.outputs, name)
        inputs = [tensors[index] for index in operator.inputs if index >= 0]
        constants = [each for each in inputs if np.size(model.buffers[each.buffer].data) > 1]
        if name == "PAD":
            sides = np.array(model.buffers[inputs[1].buffer].data, np.uint8).view(np.int32).reshape(-1, 2)
            padded_behind = bool(sides[:, 1].any() and not sides[:, 0].any())
        elif name in _CONVOLUTIONS:
            if layer:
                yield layer
            if constants[0].type != floats or len(constants) < 2:
                raise ModelError(
                    f"{source}: its weights are no floats; give a float file, or a shipped model's name: mobilefacenet"
                )
            weight = torch.from_numpy(constant(model, constants[0]).transpose(_CONVOLUTIONS[name]).copy())
            bias = torch.from_numpy(constant(model, constants[1]).copy())
            behind = _has_stride(operator) and (operator.builtinOptions.padding == _SAME or padded_behind)
            layer = FileLayer(weight, bias, active=_has_activation(operator), same_padding=behind)
            padded_behind = False
        elif layer and constants and name in ("PRELU", "MUL"):
            values = torch.from_numpy(constant(model, constants[0]).flatten())
            if values.tolist() == [-1]:
                continue
            # relu(x) + a·(x − |x|) has half the slope as its a, relu(x) − a·relu(−x) and max(x, a·x) the slope.
            halved = name == "MUL" and "SUB" in [made_by.get(index) for index in operator.inputs]
            slopes = values * (2 if halved else 1)
            layer = replace(layer, active=True, slopes=slopes if layer.slopes is None else layer.slopes * slopes)
        elif layer and name in ("RELU", "RELU6"):
            layer = replace(layer, active=True)
    if layer:
        yield layer


def _has_activation(operator: OperatorT) -> bool:
    return bool(operator.builtinOptions.fusedActivationFunction)


def _has_stride(operator: OperatorT) -> bool:
    return bool(operator.builtinOptions.strideH > 1)


def _fitted(layers: Sequence[FileLayer], wanted: Sequence[Tensor], source: Path) -> list[FileLayer]:
    """The layers with the net's shapes, linear ones multiplied into the next where the net has no place for them."""
    fitted: list[FileLayer] = []
    rest = list(layers)
    for index, weight in enumerate(wanted):
        last = index == len(wanted) - 1
        if not rest:
            raise ModelError(f"{source}: has {len(layers)} layers, the net {len(wanted)}")
        layer = rest.pop(0)
        while rest and not layer.active and (last or layer.weight.shape != weight.shape):
            layer = _multiplied(layer, rest.pop(0), source)
        longer = last and layer.weight.shape[1:] == weight.shape[1:] and len(layer.bias) >= len(weight)
        if layer.weight.shape != weight.shape and not longer:
            raise ModelError(
                f"{source}: layer {index + 1} is {tuple(layer.weight.shape)}, the net's {tuple(weight.shape)}"
            )
        fitted.append(layer)
    if rest:
        raise ModelError(f"{source}: has {len(rest)} layers more than the net")
    return fitted


def _multiplied(first: FileLayer, second: FileLayer, source: Path) -> FileLayer:
    if any(layer.weight.shape[2:] != (1, 1) for layer in (first, second)) or first.same_padding or second.same_padding:
        raise ModelError(f"{source}: {_OTHER}")
    matrix = second.weight.flatten(1)
    weight = (matrix @ first.weight.flatten(1))[:, :, None, None]
    return replace(second, weight=weight, bias=matrix @ first.bias + second.bias)


def _turned(layers: Sequence[FileLayer]) -> list[FileLayer]:
    """The same function with no slope of PReLU beyond ±1, where training would cut it.

    PReLU with a slope a > 1 is −PReLU(−a·x) with 1/a, one with a < −1 is PReLU(a·x) with 1/a: the layer itself takes
    the factor, the next one the sign.
    """
    turned = list(layers)
    for index, layer in enumerate(layers[:-1]):
        if layer.slopes is None or not (steep := layer.slopes.abs() > 1).any():
            continue
        one, slopes = torch.ones(()), layer.slopes
        factor, sign = torch.where(steep, -slopes.abs(), one), torch.where(slopes > 1, -one, one)
        weight, bias = turned[index].weight * factor[:, None, None, None], turned[index].bias * factor
        turned[index] = replace(layer, weight=weight, bias=bias, slopes=torch.where(steep, 1 / slopes, slopes))
        after = turned[index + 1].weight
        side = sign[None, :, None, None] if after.shape[1] == len(sign) else sign[:, None, None, None]
        turned[index + 1] = replace(turned[index + 1], weight=after * side)
    return turned


def _fill(net: MobileFaceNet, layers: Sequence[FileLayer], source: Path) -> None:
    """All but the embedding; batch norms add the biases and do nothing else."""
    following = iter(layers[:-1])
    layer = layers[0]
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and (layer := next(following, layers[-1])) is not layers[-1]:
            module.weight.copy_(layer.weight)
        elif isinstance(module, nn.BatchNorm2d) and layer is not layers[-1]:
            _keep(module, torch.zeros_like(layer.bias), torch.full_like(layer.bias, 1 - module.eps), layer.bias)
        elif isinstance(module, nn.PReLU):
            if layer.slopes is None:
                raise ModelError(f"{source}: has no PReLU where the net has one; --backbone mobilefacenet:act=relu6")
            module.weight.copy_(layer.slopes)


def _set_statistics(net: MobileFaceNet, embed: nn.Conv2d, faces: Tensor) -> Tensor:
    """Gives batch norms the statistics of what comes to them; returns what comes to the embedding's layer, (N, in)."""
    seen: dict[nn.Module, list[Tensor]] = {}
    features: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        rows = inputs[0].transpose(0, 1).flatten(1)
        seen.setdefault(module, []).append(torch.stack([rows.mean(1), (rows**2).mean(1)]))

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)][:-1]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    hooks.append(embed.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].flatten(1))))
    for part in torch.split(faces, 64):
        net(part)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, square = torch.stack(seen[norm]).mean(0)
        _keep(norm, mean, square - mean**2, norm.bias.clone())
    return torch.cat(features)


def _keep(norm: Any, mean: Tensor, variance: Tensor, bias: Tensor) -> None:
    """Batch norm with these statistics that adds the bias and changes nothing else."""
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(bias + mean)
