"""From a trained or third-party model and photos to checked files: which photos calibrate, evaluate, set thresholds."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeface.backbones.equalize import can_be_equalized, equalize
from edgeface.backbones.mobilefacenet import MobileFaceNet
from edgeface.data.dataset import FaceData, open_faces
from edgeface.data.pairs import find, read_lfw_pairs
from edgeface.evaluation.opening import EXPORTED, carries_contract, contract_of
from edgeface.evaluation.pipeline import held_against
from edgeface.evaluation.tails import thresholds
from edgeface.progress import SILENT, Reporter
from edgeface.training.augment import normalize
from edgeface.training.checkpoints import load_checkpoint
from edgeface_export.faces import EvaluationSet, ExportFaces, ThresholdFaces
from edgeface_export.options import ExportOptions
from edgeface_export.pipeline import export
from edgeface_export.result import ExportResult
from edgeface_export.separation import draw_pairs, few_people
from edgeface_export.source_model import SourceModel, exported_onnx, torch_source
from edgeface_runtime import Contract, InputSpec, ModelError, UsageError
from edgeface_runtime.model import find_model

THRESHOLD_PHOTOS = 15_000
"""At most so many photos set thresholds: 112 million pairs, enough for a rate of 1e-7."""
NOT_ALIGNED = "the faces are not aligned as a device aligns them, whose scores are others"
SELECTION = 200
"""Faces of the calibration-selection set."""
EQUALIZED = 400
"""Faces on which the sizes of channels are looked at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportPhotos:
    """The photos of an export, by folder or loaded."""

    data: Path | FaceData
    """``train`` photos calibrate, ``test`` photos evaluate."""
    threshold_data: Path | FaceData | None = None
    """Photos of people that the model was not trained on; None takes those people of ``data`` without train photos."""
    pairs: Path | None = None
    """A list of pairs of ``test`` photos to evaluate on, in the form of LFW's; None draws them."""

    def opened(self, size: int, reporter: Reporter = SILENT) -> ExportPhotos:
        """The same with the photos read, where they are named by folder; whole photos are found and aligned first.

        Args:
            size: of the faces, in pixels.
            reporter: told what the photos are, where they are no aligned faces.

        Raises:
            UsageError: no such photos.
        """

        def read(photos: Path | FaceData) -> FaceData:
            return photos if isinstance(photos, FaceData) else open_faces(photos, size=size, reporter=reporter)

        others = self.threshold_data
        return replace(self, data=read(self.data), threshold_data=None if others is None else read(others))

    def select(self, size: int, options: ExportOptions, *, is_third_party: bool = False) -> ExportFaces:
        """Which faces serve what.

        Args:
            size: of the faces, in pixels.
            options: number of calibration faces and seed.
            is_third_party: True where the model was trained on none of the photos, so that ``test`` photos set the
                thresholds unless there are ``threshold_data``.

        Raises:
            UsageError: no photos, no ``test`` photos, or thresholds asked of training photos.
        """
        photos = self.opened(size)
        faces, others = photos.data, photos.threshold_data
        assert isinstance(faces, FaceData)
        assert not isinstance(others, Path)
        test = faces.rows("test")
        if not len(test):
            raise UsageError("the photos hold no test split to evaluate an export on; see edgeface data split")
        chosen = balanced(faces.labels, faces.rows("train"), options.calibration_faces, options.seed)
        spare = np.setdiff1d(faces.rows("train", "val"), chosen)
        return ExportFaces(
            calibration=faces.faces[chosen],
            evaluation=self._evaluation(faces, test, options.seed),
            selection=_selection(faces, balanced(faces.labels, spare, SELECTION, options.seed), options.seed),
            thresholds=_thresholds(faces, others, options.seed, test if is_third_party else None),
        )

    def _evaluation(self, faces: FaceData, rows: NDArray[np.int64], seed: int) -> EvaluationSet:
        if self.pairs is None:
            return _with_pairs(faces, rows, draw_pairs(faces.labels[rows], seed=seed))
        pairs, _ = find(read_lfw_pairs(self.pairs), [faces.paths[row] for row in rows])
        if not len(pairs):
            raise UsageError(f"{self.pairs}: none of its pairs are test photos")
        return _with_pairs(faces, rows, pairs)


def export_model(
    source: Path,
    photos: ExportPhotos,
    folder: Path,
    options: ExportOptions | None = None,
    *,
    contract: Path | None = None,
    reporter: Reporter = SILENT,
) -> ExportResult:
    """Exports a model.

    Args:
        source: a run folder or ``.safetensors`` checkpoint; with ``contract``, a third-party ``.onnx`` or ``.tflite``;
            to become ncnn, an fp32 ``.onnx`` that an export wrote.
        photos: what calibrates, evaluates and sets thresholds.
        folder: where the files go; made if absent.
        options: None takes the defaults. With ``qat`` the files are made of the fine-tuned model, written as
            ``qat.safetensors`` beside the checkpoint, and measured against the checkpoint.
        contract: TOML or JSON file that says what to feed a third-party model and what it gives; the name of a public
            net (``edgeface_export.contracts``); or ``auto``, which measures it on the photos.
        reporter: told what is being made, and how far fine-tuning is.

    Raises:
        UsageError: no such model, no photos, options that the source does not allow, or a folder that cannot be
            written to; or photos that were split again since the model learnt from them.
        ContractError: not a contract.
        ModelError: a damaged model, one that does not fit its contract, or a converter that failed.
    """
    options = options or ExportOptions()
    if contract is not None:
        model, photos = _third_party(source, contract, photos, options, reporter)
    elif options.formats == ("ncnn",):
        model = exported_onnx(source)
    elif source.suffix in EXPORTED:
        if carries_contract(find_model(source)):
            raise UsageError(
                f"{source}: an exported file; export the run or checkpoint that it was made of, or an fp32 .onnx with "
                "--format ncnn"
            )
        raise UsageError(f"{source}: not a whole checkpoint; a third-party model needs --contract")
    else:
        model, photos = _trained(source, photos, options, reporter)
    photos = _opened(photos, model.contract, reporter)
    faces = photos.select(model.contract.input.size, options, is_third_party=contract is not None)
    return export(model, faces, folder, options, progress=reporter.say)


def _opened(photos: ExportPhotos, contract: Contract, reporter: Reporter) -> ExportPhotos:
    photos = photos.opened(contract.input.size, reporter)
    assert isinstance(photos.data, FaceData)
    if len(photos.data.rows("test")) and (leak := photos.data.split_since(contract)):
        raise UsageError(leak)
    return photos


def _thresholds(faces: FaceData, others: FaceData | None, seed: int, rows: NDArray[np.int64] | None) -> ThresholdFaces:
    train = faces.rows("train")
    if others is not None:
        known = {_digest(face) for face in faces.faces[train]} if rows is None else set()
        twice = sum(_digest(face) in known for face in others.faces)
        if twice:
            raise UsageError(f"{twice} of the threshold photos are training photos; give people not trained on")
        faces, rows = others, np.arange(len(others.labels))
    elif rows is None:
        rows = np.flatnonzero(~np.isin(faces.labels, faces.labels[train]))
    rows = rows[few_people(faces.labels[rows], np.random.default_rng(seed), THRESHOLD_PHOTOS)]
    reason = None if faces.is_aligned else NOT_ALIGNED
    labels = faces.labels[rows]
    return ThresholdFaces(faces.faces[rows], lambda embeddings: thresholds(embeddings, labels, reason))


def _third_party(
    source: Path, contract: Path, photos: ExportPhotos, options: ExportOptions, reporter: Reporter
) -> tuple[SourceModel, ExportPhotos]:
    """A model of other origin, its contract found or held against the photos, and the photos, loaded."""
    from edgeface_export.contracts import doubt, drafted, find_contract
    from edgeface_export.gate import ANYTHING
    from edgeface_export.third_party import third_party_model

    if options.qat or options.converter != ExportOptions.converter:
        raise UsageError(f"{source}: --qat and --converter are for runs and checkpoints, not with --contract")
    known = contract_of(source, contract)
    model = None if known is None else third_party_model(source, known)
    photos = photos.opened(drafted(source).input.size if known is None else known.input.size, reporter)
    assert isinstance(photos.data, FaceData)
    faces, labels = held_against(photos.data)
    if known is None:
        found = find_contract(source, faces, labels)
        if found.is_guess:
            raise UsageError(f"{source}: contract {found.doubt}; nothing was written")
        reporter.say(f"{source}: contract {found.said}")
        warnings = (f"{source}: contract {found.doubt}",) if found.doubt else ()
        return replace(third_party_model(source, found.best), warnings=warnings), photos
    doubtful = doubt(source, known, faces, labels) if options.max_drop < ANYTHING else None
    if doubtful is not None and doubtful.is_wrong:
        raise ModelError(f"{doubtful.said}; nothing was written")
    assert model is not None
    return replace(model, warnings=() if doubtful is None else (doubtful.said,)), photos


def _trained(
    source: Path, photos: ExportPhotos, options: ExportOptions, reporter: Reporter
) -> tuple[SourceModel, ExportPhotos]:
    """A checkpoint's model, fine-tuned where that is asked for, and the photos, loaded if they had to be."""
    checkpoint = load_checkpoint(source)
    if not options.qat:
        contract = replace(checkpoint.contract, parent_sha256=checkpoint.sha256)
        net: nn.Module = checkpoint.net
        if can_be_equalized(net):
            photos = _opened(photos, contract, reporter)
            assert isinstance(photos.data, FaceData)
            net = _equalized(net, contract.input, photos.data)
        model = torch_source(net, contract, reference=checkpoint.net, converter=options.converter)
        return replace(model, run=source if source.is_dir() else None), photos
    from edgeface.training.qat import finetune_checkpoint

    photos = _opened(photos, checkpoint.contract, reporter)
    faces = photos.data
    assert isinstance(faces, FaceData)
    train = faces.faces[faces.rows("train")]
    tuned = finetune_checkpoint(checkpoint, train, steps=options.qat_steps, reporter=reporter, seed=options.seed)
    model = torch_source(tuned.net, tuned.contract, reference=checkpoint.net, converter=options.converter)
    return replace(model, run=source if source.is_dir() else None), photos


def _equalized(net: MobileFaceNet, spec: InputSpec, data: FaceData) -> MobileFaceNet:
    """A copy whose channels are of one size on some training photos, which int8 needs and float does not notice."""
    net, rows = copy.deepcopy(net), data.rows("train")
    rows = rows if len(rows) else np.arange(len(data.faces))
    rows = rows[:: max(1, len(rows) // EQUALIZED)]
    equalize(net, normalize(torch.from_numpy(np.array(data.faces[rows])), spec.mean, spec.std))
    return net


def _selection(faces: FaceData, rows: NDArray[np.int64], seed: int) -> EvaluationSet | None:
    """Faces that neither calibrate nor evaluate; None where they show no pairs of both kinds."""
    labels = faces.labels[rows]
    if len(np.unique(labels)) in (0, 1, len(labels)):
        return None
    return _with_pairs(faces, rows, draw_pairs(labels, seed=seed))


def _with_pairs(faces: FaceData, rows: NDArray[np.int64], pairs: NDArray[np.int64]) -> EvaluationSet:
    labels = faces.labels[rows]
    return EvaluationSet(faces.faces[rows], pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]], labels)


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
