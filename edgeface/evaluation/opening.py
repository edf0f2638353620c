"""Opens whatever holds a model as an embedder: a run, a checkpoint, an exported file."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.embedder import Embedder
from edgeface_runtime import Contract, ContractError, EmbeddingSpec, InputSpec, ModelError, UsageError, load
from edgeface_runtime.checks import build, read_document
from edgeface_runtime.metadata import read_text
from edgeface_runtime.model import find_model

if TYPE_CHECKING:
    from edgeface.heads import ClassCentres

_SECTIONS: dict[str, type] = {"input": InputSpec, "embedding": EmbeddingSpec}
EXPORTED = (".onnx", ".tflite", ".ncnn", ".ensemble")


def open_embedder(source: str | Path, *, threads: int = 1, contract: Contract | None = None) -> Embedder:
    """Opens an exported file in its engine, or a run folder or checkpoint in PyTorch, on a GPU where there is one.

    Args:
        source: ``.onnx``, ``.tflite``, ``.ncnn``, ``.ensemble``, the name of a shipped model, ``.safetensors`` or a run
            folder.
        threads: of the engine; PyTorch keeps its own setting.
        contract: for an ``.onnx`` or ``.tflite`` of other origin, which carries none.

    Raises:
        UsageError, ModelError: nothing of these, or damaged.
    """
    source = find_model(source)
    if source.suffix in EXPORTED:
        model = load(source, threads=threads, contract=contract)
        return Embedder(model.contract, model.embed)
    from edgeface.training.checkpoints import load_checkpoint
    from edgeface.training.devices import best_device
    from edgeface_export.rewrite import torch_embeddings

    checkpoint = load_checkpoint(source)
    net = checkpoint.net.to(best_device())
    return Embedder(checkpoint.contract, lambda faces: torch_embeddings(net, checkpoint.contract.input, faces))


def read_contract_file(path: Path) -> Contract:
    """A contract written as TOML or JSON, for a model file that carries none.

    Raises:
        UsageError: no such file.
        ContractError: not a contract.
    """
    if not path.is_file():
        raise UsageError(f"{path}: the contract cannot be read: no such file")
    document = read_document(path, object, "contract", fails=ContractError)
    try:
        _refuse_unknown(document, Contract, "")
        return Contract.from_document(document)
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error


def _refuse_unknown(document: object, kind: type, where: str) -> None:
    """A key that was mistyped by hand must not be passed over, as one of a newer edgeface is."""
    known = [item.name for item in dataclasses.fields(kind)]
    for name, value in document.items() if isinstance(document, dict) else ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ContractError(f"{where}{name} is no key of a contract; {hint}")
        if name in _SECTIONS:
            _refuse_unknown(value, _SECTIONS[name], f"{name}.")


def contract_of(model: Path, contract: Path) -> Contract | None:
    """The contract that is named for a model file: a TOML or JSON file, or a name of ``edgeface_export.contracts``.

    Args:
        model: an ONNX or TFLite file that must carry none.
        contract: a file, or the name of a public net; None is returned for ``auto``, which needs faces.

    Raises:
        UsageError: neither a file nor a name; or the model carries a contract itself.
        ContractError: not a contract.
        ModelError: no model file, or not of that net.
    """
    written = contract.suffix in (".toml", ".json") or contract.is_file()
    given = read_contract_file(contract) if written else None
    found = find_model(model)
    if found.is_dir() or found.suffix == ".safetensors" or carries_contract(found):
        raise UsageError(f"{model}: carries its own contract; --contract is for a model without one: leave it out")
    if given is not None:
        return given
    from edgeface_export.contracts import AUTO, named_contract

    return None if str(contract) == AUTO else named_contract(model, str(contract))


def open_teachers(sources: Sequence[Path], contracts: Sequence[Path]) -> list[Embedder]:
    """Opens several models; those without a contract inside take the next of ``contracts``.

    Raises:
        UsageError: more contracts than models that lack one, or fewer.
    """
    spare = iter(contracts)
    teachers = []
    for source in sources:
        lacks = source.suffix in EXPORTED and not carries_contract(source)
        file = next(spare, None) if lacks else None
        if lacks and file is None:
            raise UsageError(f"{source}: carries no contract; give one with --teacher-contract")
        contract = contract_of(source, file) if file else None
        if file and contract is None:
            raise UsageError(f"{source}: --teacher-contract takes a file or a name; eval and export find out by auto")
        teachers.append(open_embedder(source, contract=contract))
    if (surplus := next(spare, None)) is not None:
        raise UsageError(f"{surplus}: no teacher is left that lacks a contract")
    return teachers


def carries_contract(path: Path) -> bool:
    """True when a model file has a contract inside.

    Raises:
        ModelError: it is no model file.
    """
    try:
        read_text(path)
    except ContractError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Classifier:
    """The net and the head that a run ended with; they belong together, so this is not the run's best net."""

    embedder: Embedder
    head: ClassCentres
    data_sha256: str
    """Of the faces that it was trained on, in their order of identities."""


def open_classifier(run: str | Path) -> Classifier:
    """The trained classifier of a run folder.

    Raises:
        UsageError: not a run folder, or a run that trained no head.
        ModelError: damaged.
    """
    from edgeface.backbones import build_backbone
    from edgeface.heads import build_head
    from edgeface.training.checkpoints import contract_draft, load_state, load_tensors
    from edgeface.training.config import config_from
    from edgeface.training.devices import best_device
    from edgeface_export.rewrite import torch_embeddings

    path = Path(run) / "last.safetensors"
    if not Path(run).is_dir() or not path.exists():
        raise UsageError(f"{run}: --method head needs a run folder with its last.safetensors")
    tensors, document = load_tensors(path)
    digest = build(str, document.get("data_sha256"), f"{path}: data_sha256", fails=ModelError)
    config = config_from(build(dict, document.get("config"), f"{path}: config", fails=ModelError))
    net_of = "average." if any(name.startswith("average.") for name in tensors) else "learner.net."
    parts = {
        prefix: {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in (net_of, "learner.head.")
    }
    if "weight" not in parts["learner.head."]:
        raise UsageError(f"{run}: trained no head; choose another --method")
    net = build_backbone(config.model.backbone, embedding=config.model.embedding_dim, size=config.model.input_size)
    classes = len(parts["learner.head."]["weight"])
    scale, margin = config.head.logit_scale, config.head.margin
    head = build_head(config.head.loss, config.model.embedding_dim, classes, s=scale, m=margin)
    load_state(net, parts[net_of], path)
    load_state(head, parts["learner.head."], path)
    contract = contract_draft(config, data_sha256=digest, licence="unknown")
    net.eval().to(best_device())
    embedder = Embedder(contract, lambda faces: torch_embeddings(net, contract.input, faces))
    return Classifier(embedder, head.eval(), digest)
