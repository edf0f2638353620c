"""The files that the engines are given: those that edgeface ships, a small net in other precisions, a PReLU net."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.att import att_folder
from edgeface.data.dataset import load_data
from edgeface.deploy import ExportPhotos, export_model
from edgeface.training.config import load_config
from edgeface.training.loop import train
from edgeface_export.options import ExportOptions
from edgeface_runtime import UsageError
from edgeface_runtime.contract import Contract, read_contract
from edgeface_runtime.model import as_input, probe_images, shipped, unit_rows

WEIGHTS = Path(__file__).parents[2] / "weights" / "mobilefacenet-tiny.safetensors"
PRECISIONS = ("fp32", "fp16", "int8-dynamic", "int8-weights")
"""Beside int8, which the shipped files are."""


@dataclass(frozen=True)
class ModelFile:
    """A file with its contract."""

    path: Path
    contract: Contract

    @property
    def format(self) -> str:
        """``onnx``, ``tflite`` or ``ncnn``."""
        return self.path.suffix[1:]

    def images(self) -> NDArray[np.generic]:
        """The golden probes as the contract wants them fed, the batch first."""
        return as_input(probe_images(self.contract.input.size), self.contract.input)

    def golden_cosine(self, outputs: list[list[float]]) -> float:
        """The least cosine of an engine's answers to the file's golden embeddings; -1 where they are not as many."""
        golden = self.contract.golden
        assert golden is not None, self.path
        expected, found = np.array(golden.embeddings, np.float32), np.array(outputs, np.float32)
        if found.shape != expected.shape or not np.isfinite(found).all():
            return -1.0
        return float((unit_rows(found) * expected).sum(axis=1).min())


def model_files(folder: Path, others: Sequence[Path] = ()) -> list[ModelFile]:
    """The shipped files, exports of the small net and of one trained here in ``folder``, made once, and ``others``."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _export(Path(work))
            _train(Path(work))
            shutil.copytree(work, folder)
    made = [path for path in sorted(folder.iterdir()) if path.suffix in (".onnx", ".tflite", ".ncnn")]
    ours = [item.file for item in shipped()]
    paths = [*ours, *made, *others]
    if len({path.name for path in paths}) != len(paths):
        raise UsageError("two files have one name: the page could not tell them apart")
    return [ModelFile(path, read_contract(path)) for path in paths]


def _export(folder: Path) -> None:
    # Every file is wanted whatever it loses on these few photos: the gate is for files to use.
    photos = ExportPhotos(data=load_data(att_folder(), pattern="*.pgm"))
    made = export_model(WEIGHTS, photos, folder, ExportOptions(precisions=PRECISIONS, max_drop=100.0))
    (float_onnx,) = [file.path for file in made.files if file.path.name.endswith(".fp32.onnx")]
    ncnn = ExportOptions(precisions=("fp32", "fp16"), formats=("ncnn",), max_drop=100.0)
    made_too = export_model(float_onnx, photos, folder, ncnn)
    for file in (*made.files, *made_too.files):
        file.path.rename(folder / (WEIGHTS.stem + file.path.name[file.path.name.index(".") :]))


def _train(folder: Path) -> None:
    # PReLU, which no shipped file has, with slopes that training has moved.
    photos = load_data(att_folder(), pattern="*.pgm")
    train(photos, folder / "demo", load_config(epochs=4))
    made = export_model(folder / "demo", ExportPhotos(data=photos), folder / "demo", ExportOptions(max_drop=100.0))
    for file in made.files:
        file.path.rename(folder / f"demo.{file.recipe.suffix}")
