"""What files are made from, and what they are compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeface_export.formats import STATIC_FORMATS, keras_twin
from edgeface_export.options import Recipe
from edgeface_export.rewrite import embedder
from edgeface_runtime import Contract, InputSpec, UsageError, load, read_contract
from edgeface_runtime.contract import OperatorCost
from edgeface_runtime.metadata import file_format
from edgeface_runtime.model import unit_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceModel:
    """A model in any form, as an export needs it."""

    contract: Contract
    """What is known of it; what depends on the file is added to each file's copy."""
    formats: tuple[str, ...]
    """What it can be written as, which is also what it is written as unless told."""
    precisions: tuple[str, ...]
    """What it can be written in."""
    default_precisions: tuple[str, ...]
    limits: str = ""
    """Why no more than these, where a user may wonder."""
    path: Path | None = None
    """The model file itself, which no export may write over."""
    float_file: Callable[[Recipe, Path], Path]
    """The fp32 file that a recipe starts from, PReLU in the recipe's form; written into the folder if it must be."""
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """(N, S, S, 3) uint8 RGB → (N, D) unit rows."""
    cost: Callable[[Recipe], dict[str, OperatorCost]]
    """The contract's cost table."""
    packages: Mapping[str, tuple[str, ...]]
    """Format → the distributions that write it; their versions stand in the contract."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path or self.contract.name)


def torch_model(
    net: nn.Module,
    contract: Contract,
    *,
    reference: nn.Module | None = None,
    converter: str = "litert",
    default_precisions: tuple[str, ...] = ("fp32", "int8"),
) -> SourceModel:
    """A torch module.

    Args:
        net: (N, 3, S, S) normalised float → (N, D), in evaluation mode.
        contract: what training knows.
        reference: the module that files are compared with; None takes ``net``.
        converter: what writes TFLite: ``litert`` or ``keras``.
        default_precisions: what is written unless told.

    Raises:
        MissingExtraError: TensorFlow is not installed.
    """
    writers = {kind: item.write_float for kind, item in STATIC_FORMATS.items()}
    packages: dict[str, tuple[str, ...]] = {
        "onnx": ("torch", "onnx", "onnxruntime"),
        "tflite": ("torch", "litert-torch", "ai-edge-quantizer"),
    }
    if converter == "keras":
        keras_twin.require()
        writers["tflite"], packages["tflite"] = keras_twin.write_float, keras_twin.packages()
    spec = contract.input

    def float_file(recipe: Recipe, folder: Path) -> Path:
        path = folder / f"{recipe.prelu}.{recipe.format}"
        if not path.exists():  # recipes share it
            writers[recipe.format](embedder(net, spec, recipe.prelu), spec.size, path)
        return path

    def cost(recipe: Recipe) -> dict[str, OperatorCost]:
        weight, activation = recipe.bytes_each
        return cost_table(net, spec.size, bytes_per_weight=weight, bytes_per_activation=activation)

    return SourceModel(
        contract=contract,
        formats=tuple(STATIC_FORMATS),
        precisions=("fp32", "fp16", "int8", "int8-dynamic", "int8-weights"),
        default_precisions=default_precisions,
        float_file=float_file,
        embed=lambda faces: torch_embeddings(net if reference is None else reference, spec, faces),
        cost=cost,
        packages=packages,
    )


def exported_onnx(path: Path) -> SourceModel:
    """An fp32 ONNX file that an export wrote, to become ncnn files.

    Raises:
        UsageError: another kind of file.
        ModelError: no whole model file.
        ContractError: it carries no contract.
    """
    contract = read_contract(path) if path.suffix == ".onnx" else None
    if contract is None or file_format(path.read_bytes()) != "onnx" or contract.precision != "fp32":
        raise UsageError(f"{path}: ncnn files are made of fp32 ONNX files; export one first, then name it")
    known = {key: value for key, value in contract.accuracy.items() if key == "training"}

    def cost(recipe: Recipe) -> dict[str, OperatorCost]:
        width, _ = recipe.bytes_each
        return {name: replace(item, bytes=item.bytes * width // 4) for name, item in contract.cost.items()}

    return SourceModel(
        contract=replace(contract, golden=None, thresholds={}, accuracy=known),
        formats=("ncnn",),
        precisions=("fp32", "fp16"),
        default_precisions=("fp16",),
        limits="the tools that make int8 are in no wheel of ncnn",
        path=path,
        float_file=lambda *_: path,
        embed=load(path).embed,
        cost=cost,
        packages={"ncnn": ("pnnx", "ncnn")},
    )


def torch_embeddings(net: nn.Module, spec: InputSpec, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, D) unit embeddings by PyTorch itself of (N, S, S, 3) uint8 RGB faces."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    rows = []
    with torch.no_grad():
        for start in range(0, len(faces), 32):
            chunk = torch.from_numpy(np.array(faces[start : start + 32]))  # a copy: mapped faces cannot be written to
            rows.append(net((chunk.permute(0, 3, 1, 2).float() - mean) / std).numpy())
    return unit_rows(np.concatenate(rows))


def cost_table(
    net: nn.Module, size: int, *, bytes_per_weight: int = 4, bytes_per_activation: int = 4
) -> dict[str, OperatorCost]:
    """Multiply-accumulates and bytes of one (1, 3, size, size) inference, by operator class.

    Classes: ``conv`` (k×k, dense), ``pointwise`` (1×1), ``depthwise``, ``grouped``, ``linear``, and
    ``other`` (activations, pooling; no multiply-accumulates counted). Batch norm costs nothing: it is
    folded before export. Bytes are weights plus output activations.
    """
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d, nn.Dropout, nn.Flatten, nn.Identity)):
            return
        weights = sum(parameter.numel() for parameter in module.parameters())
        row = totals[_class(module)]
        row[0] += 1
        row[1] += _macs(module, output)
        row[2] += bytes_per_weight * weights + bytes_per_activation * output[0].numel()

    leaves = [module for module in net.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        with torch.no_grad():
            net(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: OperatorCost(count=n, macs=macs, bytes=size) for name, (n, macs, size) in sorted(totals.items())}


def _class(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if not isinstance(module, nn.Conv2d):
        return "other"
    if module.groups == 1:
        return "pointwise" if module.kernel_size == (1, 1) else "conv"
    return "depthwise" if module.groups == module.in_channels else "grouped"


def _macs(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features * output[0].numel()
    if isinstance(module, nn.Conv2d):
        kernel = module.kernel_size[0] * module.kernel_size[1]
        return output[0].numel() * kernel * module.in_channels // module.groups
    return 0
