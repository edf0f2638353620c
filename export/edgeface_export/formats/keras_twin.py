"""TFLite files by way of Keras: the same model built anew from TensorFlow's layers, converted by TensorFlow.

It shares nothing with litert-torch, so that each is a check on the other, and it serves where litert-torch
has no wheel.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor, fx, nn

from edgeface_export.formats.tflite_file import quiet
from edgeface_export.rewrite import Preprocess
from edgeface_runtime import MissingExtraError, ModelError

if TYPE_CHECKING:
    from keras import KerasTensor, Layer, Model


def write_float(module: nn.Sequential, size: int, path: Path) -> None:
    """fp32 TFLite with batch 1: (1, S, S, 3) uint8 → (1, D) float.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        ModelError: a layer that is not in the table.
    """
    require()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        import tensorflow as tf

        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(twin(module, size)).convert())


def require() -> None:
    """Raises MissingExtraError where TensorFlow is not installed."""
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("tensorflow", "tensorflow")


def packages() -> tuple[str, ...]:
    """The distributions that a file is made with; TensorFlow's goes by several names."""
    return ("torch", importlib.metadata.packages_distributions()["tensorflow"][0], "keras", "ai-edge-quantizer")


def twin(module: nn.Sequential, size: int) -> Model:
    """The ``keras.Model`` that computes what the module does; feature maps are NHWC.

    Args:
        module: ``Preprocess``, then a model of layers and functions that the tables below know.
        size: side of the input in pixels.

    Raises:
        ModelError: a layer or function that is not in the tables.
    """
    import keras

    before, net = module
    assert isinstance(before, Preprocess)
    graph = net.graph if isinstance(net, fx.GraphModule) else _Tracer().trace(net)
    inputs = keras.Input((size, size, 3), batch_size=1, dtype="uint8", name="faces")
    values: dict[fx.Node, KerasTensor] = {}
    for node in graph.nodes:
        given = [values.get(item, item) for item in node.args]
        if node.op == "placeholder":
            values[node] = _preprocess(keras, before, inputs)
        elif node.op == "output":
            values[node] = given[0]
        elif node.op == "get_attr":
            constant = net.get_buffer(str(node.target))
            values[node] = constant.movedim(1, -1).numpy()
        elif node.op == "call_module":
            layer = net.get_submodule(str(node.target))
            build = next((_LAYERS[kind] for kind in type(layer).__mro__ if kind in _LAYERS), None)
            if build is None:
                raise _unknown(type(layer).__name__)
            values[node] = build(keras, layer, given[0], f"{type(layer).__name__}_{len(values)}")
        else:
            name = getattr(node.target, "__name__", str(node.target))
            if name not in _FUNCTIONS:
                raise _unknown(name)
            values[node] = _FUNCTIONS[name](keras, *given)
    return keras.Model(inputs, values[node])


def _unknown(name: str) -> ModelError:
    return ModelError(f"{name} has no twin in Keras here: take --converter litert")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.PReLU) or super().is_leaf_module(m, module_qualified_name)


def _filled(layer: Layer, x: KerasTensor, *weights: Tensor) -> KerasTensor:
    """The layer's output, once it holds these weights."""
    y = layer(x)
    layer.set_weights([weight.detach().numpy() for weight in weights])
    return y


def _preprocess(keras: ModuleType, layer: Preprocess, x: KerasTensor) -> KerasTensor:
    scale = layer.scale[0, 0, 0]
    offset = -layer.mean[0, 0, 0] * scale
    pixels = keras.ops.cast(x, "float32")
    return keras.layers.Rescaling(scale.tolist(), offset.tolist(), name="Preprocess")(pixels)


def _conv(keras: ModuleType, layer: nn.Conv2d, x: KerasTensor, name: str) -> KerasTensor:
    sides, strides, pads = (tuple(map(int, item)) for item in (layer.kernel_size, layer.stride, layer.padding))
    # TensorFlow pads an even map on one side only when it strides; there the padding is a layer of its own.
    same = strides == (1, 1) and sides == tuple(2 * pad + 1 for pad in pads)
    if any(pads) and not same:
        x = keras.layers.ZeroPadding2D(pads)(x)
    bias = () if layer.bias is None else (layer.bias,)
    options = {"strides": strides, "padding": "same" if same else "valid", "use_bias": bool(bias), "name": name}
    if layer.groups == layer.in_channels > 1:
        return _filled(keras.layers.DepthwiseConv2D(sides, **options), x, layer.weight.permute(2, 3, 0, 1), *bias)
    made = keras.layers.Conv2D(layer.out_channels, sides, groups=layer.groups, **options)
    return _filled(made, x, layer.weight.permute(2, 3, 1, 0), *bias)


def _batch_norm(keras: ModuleType, layer: nn.BatchNorm2d, x: KerasTensor, name: str) -> KerasTensor:
    made = keras.layers.BatchNormalization(epsilon=layer.eps, name=name)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return _filled(made, x, layer.weight, layer.bias, layer.running_mean, layer.running_var)


def _prelu(keras: ModuleType, layer: nn.PReLU, x: KerasTensor, name: str) -> KerasTensor:
    slopes = layer.weight.expand(x.shape[-1]).reshape(1, 1, -1)
    return _filled(keras.layers.PReLU(shared_axes=[1, 2], name=name), x, slopes)


def _flatten(keras: ModuleType, layer: nn.Flatten, x: KerasTensor, name: str) -> KerasTensor:
    # Numbers follow each other channel by channel in PyTorch.
    return keras.layers.Flatten(name=name)(keras.layers.Permute((3, 1, 2))(x) if x.shape[1] > 1 else x)


def _zero_padded_max(keras: ModuleType, x: KerasTensor) -> KerasTensor:
    return keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))


# Layer → how Keras writes it, of (keras, the layer, its input, a name).
_LAYERS: dict[type, Callable[..., KerasTensor]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    nn.PReLU: _prelu,
    nn.Flatten: _flatten,
    nn.ReLU: lambda keras, m, x, name: keras.layers.ReLU(name=name)(x),
    nn.ReLU6: lambda keras, m, x, name: keras.layers.ReLU(6.0, name=name)(x),
    nn.MaxPool2d: lambda keras, m, x, name: keras.layers.MaxPooling2D(m.kernel_size, m.stride, name=name)(x),
    nn.AdaptiveAvgPool2d: lambda keras, m, x, name: keras.layers.GlobalAveragePooling2D(keepdims=True, name=name)(x),
    nn.Identity: lambda keras, m, x, name: x,
}
# Function by its name → the same of (keras, its arguments).
_FUNCTIONS: dict[str, Callable[..., KerasTensor]] = {
    "add": lambda keras, x, y: keras.ops.add(x, y),
    "sub": lambda keras, x, y: keras.ops.subtract(x, y),
    "mul": lambda keras, x, y: keras.ops.multiply(x, y),
    "neg": lambda keras, x: keras.ops.negative(x),
    "relu": lambda keras, x: keras.ops.relu(x),
    "maximum": lambda keras, x, y: keras.ops.maximum(x, y),
    "_zero_padded_max": _zero_padded_max,
}
