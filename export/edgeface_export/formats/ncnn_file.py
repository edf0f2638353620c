"""ncnn files, made of fp32 ONNX files that carry a contract: converted by pnnx, one tar archive each."""

from __future__ import annotations

import importlib.util
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

from edgeface_export.formats.protocols import Writer
from edgeface_runtime import Contract, MissingExtraError, ModelError
from edgeface_runtime.contract import read_contract
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.metadata import KEY, tar_members, write_tar

_CASTS = "Tensor.to"
"""What pnnx writes for a cast that ncnn does not know; the runtime feeds floats, so that it has nothing to do."""
_SECONDS = 300


def convert(source: Path, path: Path, *, flag: str) -> None:
    """pnnx's two files of the graph and the source's contract, in one tar archive.

    Args:
        source: fp32 ONNX with its contract.
        path: where to.
        flag: pnnx's choice of precision.

    Raises:
        MissingExtraError: pnnx is not installed.
        ModelError: pnnx or ncnn does not take the graph.
    """
    contract = read_contract(source)
    spec = contract.input
    sides = f"1,3,{spec.size},{spec.size}" if spec.layout == "NCHW" else f"1,{spec.size},{spec.size},3"
    kind = "u8" if spec.dtype == "uint8" else "f32"
    with temporary_folder() as workspace:
        # It writes its results beside its input.
        graph = Path(workspace) / "net.onnx"
        graph.write_bytes(source.read_bytes())
        command = [str(_pnnx()), str(graph), flag, f"inputshape=[{sides}]{kind}"]
        try:
            ran = subprocess.run(command, cwd=workspace, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{source}: pnnx took more than {_SECONDS} s") from error
        written = [graph.with_name(f"net.ncnn.{kind}") for kind in ("param", "bin")]
        if ran.returncode or not all(file.exists() for file in written):
            lines = (ran.stderr or ran.stdout).decode(errors="replace").strip().splitlines()
            raise ModelError(f"{source}: pnnx cannot convert it ({lines[-1] if lines else f'exit {ran.returncode}'})")
        param, weights = (file.read_bytes() for file in written)
    lines = param.decode().splitlines()
    kept = [f"Noop{line.removeprefix(_CASTS)}" if line.startswith(_CASTS) else line for line in lines]
    unknown = {line.split()[0] for line in kept[2:] if "." in line.split()[0]}
    if unknown:
        raise ModelError(f"{source}: ncnn has no {', '.join(sorted(unknown))}")
    write_tar(path, {"model.param": "\n".join([*kept, ""]).encode(), "model.bin": weights})
    write_contract(path, contract.to_json())  # the engine asks it for the input's sides


WRITERS: dict[str, Writer] = {"fp32": partial(convert, flag="fp16=0"), "fp16": partial(convert, flag="fp16=1")}


def _pnnx() -> Path:
    # Its Python package imports torch; the program beside it needs nothing.
    found = importlib.util.find_spec("pnnx")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("pnnx", "ncnn-export")
    return Path(found.submodule_search_locations[0]) / "pnnx"


def make_portable(_: Path) -> None:
    """ncnn alone reads ncnn's files."""


def write_contract(path: Path, text: str) -> None:
    """Stores the contract as a third file of the archive, replacing one that is there."""
    write_tar(path, tar_members(path.read_bytes()) | {f"{KEY}.json": text.encode()})


def operators(path: Path, source: Contract) -> dict[str, Counter[str]]:
    """All operators of the source model, as ``float``: into which kernels ncnn fuses them, the file does not tell."""
    count = sum(source.operators.values())
    return {"int8": Counter(), "float": Counter({"source operator": count}), "other": Counter()}
