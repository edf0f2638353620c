"""From a run, a checkpoint or a foreign ONNX file and photos to checked files: who calibrates, who judges."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData, load_data
from edgeface.data.pairs import find, read_lfw_pairs
from edgeface.evaluation.embedder import read_contract_file
from edgeface.evaluation.verification import all_pairs, tar_at_far
from edgeface.progress import SILENT, Reporter
from edgeface.training.checkpoints import load_checkpoint
from edgeface_export.build import Export, export
from edgeface_export.gate import HeldOut, draw_pairs, few_people
from edgeface_export.one_file import Strangers
from edgeface_runtime import UsageError

FARS = (1e-2, 1e-3, 1e-4, 1e-5)
"""False-accept rates that a contract holds a threshold for."""
CHOOSING = 200
"""Faces that a calibrator is chosen on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """What an export is made with."""

    data: Path | FaceData
    """Photos, or the folder of them: ``train`` faces calibrate, ``test`` faces judge."""
    calibration_faces: int = 100
    """How many faces int8 ranges are taken from."""
    threshold_data: Path | FaceData | None = None
    """Photos of people that the net was not trained on; None takes those people of ``data`` without train photos."""
    pairs: Path | None = None
    """A list of pairs of ``test`` photos to judge on, in the form of LFW's; None draws them."""
    seed: int = 0
    """Of the choice of calibration faces, of the pairs, and of people where there are too many."""

    def __post_init__(self) -> None:
        if self.calibration_faces < 1:
            raise UsageError(f"int8 ranges are taken from {self.calibration_faces} faces; at least 1 is needed")

    def options(self, size: int, *, all_strangers: bool = False) -> dict[str, Any]:
        """The arguments of ``edgeface_export.build.export_parent`` that photos decide.

        Raises:
            UsageError: no photos, none held out, or thresholds asked of training photos.
        """
        faces = self.data if isinstance(self.data, FaceData) else load_data(self.data, size=size)
        test = faces.rows("test")
        if not len(test):
            raise UsageError("the photos hold no test split to judge an export on; see edgeface data split")
        chosen = balanced(faces.labels, faces.rows("train"), self.calibration_faces, self.seed)
        return {
            "calibration": faces.faces[chosen],
            "held_out": self._held_out(faces, test),
            "chooser": self._chooser(faces, np.setdiff1d(faces.rows("train", "val"), chosen)),
            "seed": self.seed,
            "strangers": self._strangers(faces, size, test if all_strangers else None),
        }

    def _held_out(self, faces: FaceData, rows: NDArray[np.int64]) -> HeldOut:
        labels = faces.labels[rows]
        if self.pairs is None:
            pairs = draw_pairs(labels, seed=self.seed)
        else:
            pairs, _ = find(read_lfw_pairs(self.pairs), [faces.paths[row] for row in rows])
            if not len(pairs):
                raise UsageError(f"{self.pairs}: none of its pairs are test photos")
        return HeldOut(faces.faces[rows], pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]])

    def _chooser(self, faces: FaceData, rows: NDArray[np.int64]) -> HeldOut | None:
        """Faces that neither calibrate nor judge; None where they show no pairs of both kinds."""
        rows = balanced(faces.labels, rows, CHOOSING, self.seed)
        labels = faces.labels[rows]
        if len(np.unique(labels)) in (0, 1, len(labels)):
            return None
        pairs = draw_pairs(labels, seed=self.seed)
        return HeldOut(faces.faces[rows], pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]])

    def _strangers(self, faces: FaceData, size: int, rows: NDArray[np.int64] | None) -> Strangers:
        train = faces.rows("train")
        if self.threshold_data is not None:
            given = self.threshold_data
            others = given if isinstance(given, FaceData) else load_data(given, size=size)
            known = {_digest(face) for face in faces.faces[train]} if rows is None else set()
            twice = sum(_digest(face) in known for face in others.faces)
            if twice:
                raise UsageError(f"{twice} of the threshold photos are training photos; give people not trained on")
            faces, rows = others, np.arange(len(others.labels))
        elif rows is None:
            rows = np.flatnonzero(~np.isin(faces.labels, faces.labels[train]))
        rows = rows[few_people(faces.labels[rows], np.random.default_rng(self.seed))]
        labels = faces.labels[rows]
        return Strangers(faces.faces[rows], lambda embeddings: thresholds(embeddings, labels))


def export_checkpoint(
    source: Path,
    data: Path | FaceData,
    folder: Path,
    *,
    calibration_faces: int = 100,
    threshold_data: Path | FaceData | None = None,
    pairs: Path | None = None,
    seed: int = 0,
    qat_steps: int = 0,
    reporter: Reporter = SILENT,
    **options: Any,
) -> Export:
    """Exports a run folder or checkpoint.

    Args:
        source: run folder or ``.safetensors`` checkpoint.
        data, calibration_faces, threshold_data, pairs, seed: as in ``Photos``.
        folder: where the files go.
        qat_steps: of fine-tuning for int8 on the ``train`` faces first; the files are then made of the fine-tuned
            net, ``qat.safetensors`` beside the checkpoint, and judged against the checkpoint. 0 leaves it out.
        reporter: told how far fine-tuning is.
        options: formats, precisions, max_drop, calibrator … of ``edgeface_export.build.export_parent``;
            reference and converter of ``edgeface_export.build.export``.

    Raises:
        UsageError: no checkpoint, no photos, none held out, none to calibrate with, or other precisions than int8
            asked of fine-tuning.
    """
    photos = Photos(
        data=data, calibration_faces=calibration_faces, threshold_data=threshold_data, pairs=pairs, seed=seed
    )
    checkpoint = load_checkpoint(source)
    contract = replace(checkpoint.contract, parent_sha256=checkpoint.sha256)
    if qat_steps:
        from edgeface.training.qat import finetune_checkpoint

        precisions = list(options.setdefault("precisions", ["int8"]))
        others = [precision for precision in precisions if not precision.startswith("int8")]
        if others:
            raise UsageError(f"--qat moves the weights for int8; export {', '.join(others)} without it")
        faces = data if isinstance(data, FaceData) else load_data(data, size=contract.input.size)
        photos = replace(photos, data=faces)
        train = faces.faces[faces.rows("train")]
        made = finetune_checkpoint(checkpoint, train, steps=qat_steps, reporter=reporter, seed=seed)
        contract = made.contract
        options |= {"reference": checkpoint.net}
        checkpoint = made
    return export(checkpoint.net, contract, folder, **photos.options(contract.input.size), **options)


def export_foreign(source: Path, contract_file: Path, photos: Photos, folder: Path, **options: Any) -> Export:
    """Exports somebody else's embedder; it is taken to have seen nobody on the photos.

    Args:
        source: an ONNX file, or a TFLite file, which only gets its contract.
        contract_file: what to feed it and what it gives, as TOML or JSON.
        photos: what calibrates, judges and sets thresholds.
        folder: where the files go.
        options: formats, precisions, max_drop, calibrator … of ``edgeface_export.build.export_parent``.

    Raises:
        UsageError: another format asked for, or as ``export_checkpoint``.
        ContractError: not a contract.
        ModelError: the file does not fit it.
    """
    from edgeface_export.foreign import export_file

    contract = read_contract_file(contract_file)
    return export_file(source, contract, folder, **options, **photos.options(contract.input.size, all_strangers=True))


def thresholds(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A threshold for each of ``FARS`` from all-against-all scores.

    Args:
        embeddings: (N, D) float32 unit rows of people not trained on.
        labels: (N,) identities.

    Returns:
        The contract's ``thresholds``, and what they were measured on with the reason for each that is null.
    """
    people = len(np.unique(labels))
    facts: dict[str, Any] = {"people": people, "photos": len(labels)}
    found: dict[str, Any] = {f"{far:g}": None for far in FARS}
    pairs = all_pairs(embeddings, labels) if people > 1 else None
    impostors = 0 if pairs is None else int((~pairs.same).sum())
    missing: dict[str, str] = {}
    for far, key in zip(FARS, found, strict=True):
        if pairs is None or not pairs.has_both_kinds:
            missing[key] = "the photos show no two people that were not trained on, one of them twice"
            continue
        at = tar_at_far(pairs, far)
        if at.reason is not None:
            missing[key] = at.reason
            continue
        figures = {"value": at.threshold, "low": at.threshold_low, "high": at.threshold_high, "tar": at.value}
        # Rounded up: rounded down, a threshold might let one more through.
        found[key] = {"pairs": impostors} | {name: math.ceil(1e6 * (x or 0)) / 1e6 for name, x in figures.items()}
    return found, facts | {"missing": missing}


def _digest(face: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(face.tobytes()).digest()


def balanced(labels: NDArray[np.int64], rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` of ``rows``, the identities taking turns, so that none of them sets the ranges alone."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rows)
    turn = np.zeros(len(shuffled), np.int64)
    seen: dict[int, int] = {}
    for index, label in enumerate(labels[shuffled].tolist()):
        turn[index] = seen[label] = seen.get(label, -1) + 1
    return np.sort(shuffled[np.argsort(turn, kind="stable")][:count])
