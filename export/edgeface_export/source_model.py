"""What files are made from, and what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeface_export.formats import STATIC_FORMATS, keras_twin
from edgeface_export.options import Recipe
from edgeface_export.rewrite import cost_table, embedder, torch_embeddings
from edgeface_runtime import Contract, UsageError, load, read_contract
from edgeface_runtime.contract import OperatorCost
from edgeface_runtime.metadata import file_format


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
    given: str = ""
    """The recipe of a model that is quantized already, which its one file takes over."""
    path: Path | None = None
    """The model file itself, which no export may write over."""
    run: Path | None = None
    """The run folder that it comes from, where an export may replace those of the run's earlier states."""
    warnings: tuple[str, ...] = ()
    """What is doubtful of it, a line each."""
    float_file: Callable[[Recipe, Path], Path]
    """The fp32 file that a recipe starts from, PReLU in the recipe's form; written into the folder if it must be."""
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """(N, S, S, 3) uint8 RGB → (N, D) unit rows."""
    cost: Callable[[Recipe], dict[str, OperatorCost]]
    """The contract's cost table."""
    packages: Mapping[str, tuple[str, ...]]
    """Format → the distributions that write it; their versions stand in the contract."""

    def __post_init__(self) -> None:
        """Refuses a name that would lead out of the folder: a contract may come from anywhere.

        Raises:
            UsageError: it cannot begin the name of a file.
        """
        if not self.contract.name or Path(self.contract.name).name != self.contract.name:
            raise UsageError(f"the contract's name {self.contract.name!r} cannot begin the name of a file")

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path or self.contract.name)


def torch_source(
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
