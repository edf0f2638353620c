"""From a model and photos to figures: what ``edgeface eval`` does."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData, open_faces
from edgeface.embedder import Embedder, with_flip
from edgeface.evaluation import Evaluation, evaluate
from edgeface.evaluation.examples import Example, examples
from edgeface.evaluation.groups import group_rates, read_groups
from edgeface.evaluation.identification import METHODS
from edgeface.evaluation.open_set import embed_people, in_both, measure_open_set
from edgeface.evaluation.opening import contract_of, open_classifier, open_embedder
from edgeface.evaluation.protocol import Progress, verify_cfp, verify_photos
from edgeface.progress import SILENT, Reporter
from edgeface_runtime import MissingExtraError, UsageError
from edgeface_runtime.detection.find import load_detector


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and on what."""

    data: Path | None = None
    """Photos by identity, or a prepared folder."""
    method: str = "centroid"
    """``centroid``, ``svc`` or ``head``."""
    flip: bool = False
    """Embed each face and its mirror image."""
    lfw: Path | None = None
    """Photos that ``pairs`` names."""
    open_set: tuple[Path, Path] | None = None
    """Photos by identity of people to enroll, and photos of people who are not enrolled."""
    pairs: Path | None = None
    train_pairs: Path | None = None
    cfp: Path | None = None
    """Folder of the set CFP, with ``Data`` and ``Protocol``."""
    folds: frozenset[int] | None = None
    """Numbers of CFP's folds to measure; None takes all."""
    detector: str = "yunet"
    groups: Path | None = None
    contract: Path | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.data is None and self.lfw is None and self.open_set is None and self.cfp is None:
            raise UsageError(
                "name photos to measure on: --data FOLDER, --lfw FOLDER with --pairs FILE, --cfp FOLDER, "
                "or --open-set KNOWN UNKNOWN"
            )
        if self.folds is not None and self.cfp is None:
            raise UsageError("--folds chooses among the folds of --cfp FOLDER, which is not given")
        if self.folds is not None and len(self.folds) < 2:
            raise UsageError("--folds: name two at least: each fold is measured at the threshold of the others")
        if (self.lfw is None) != (self.pairs is None):
            raise UsageError("--lfw FOLDER and --pairs FILE belong together")
        if self.train_pairs is not None and self.pairs is None:
            raise UsageError("--train-pairs chooses a threshold for --pairs, which is not given")
        if self.method not in (*METHODS, "head"):
            raise UsageError(f"--method {self.method}: choose {', '.join(METHODS)} or head")
        if self.method == "head" and self.data is None:
            raise UsageError("--method head names people, so it needs --data")


@dataclass(frozen=True, eq=False)
class Measured:
    """An evaluation with the faces that it was measured on."""

    evaluation: Evaluation
    data: FaceData | None
    """None where the plan names no ``data``."""
    examples: tuple[Example, ...]
    """What each test photo was named; empty where none was."""


def evaluate_model(model: Path, plan: Plan, *, reporter: Reporter = SILENT, progress: Progress = iter) -> Measured:
    """Measures a run, a checkpoint or an exported file.

    Args:
        model: what to measure.
        plan: what to measure on.
        reporter: told of photos that were left out or are no aligned faces.
        progress: told the photos of pairs that are being aligned.

    Raises:
        EdgefaceError: something named in the plan is absent, damaged or does not fit.
    """
    note = reporter.say
    groups = None if plan.groups is None else read_groups(plan.groups)
    classifier = open_classifier(model) if plan.method == "head" else None
    embedder, data = (classifier.embedder, None) if classifier else _open(model, plan, reporter)
    if plan.flip:
        embedder = with_flip(embedder)
    result = Evaluation()
    shown: tuple[Example, ...] = ()
    if plan.data is not None:
        if importlib.util.find_spec("sklearn") is None:  # before photos are looked at
            raise MissingExtraError("sklearn", "data")
        data = data or open_faces(plan.data, size=embedder.contract.input.size, reporter=reporter)
        for file, reason in data.rejected:
            note(f"left out {file}: {reason}")
        if leak := data.split_since(embedder.contract):
            note(f"{plan.data}: {leak}")
        if classifier and not classifier.data_sha256.endswith(data.sha256):
            raise UsageError(
                f"{model}: its head names the people of the photos that it was trained on; {plan.data} holds others"
            )
        embeddings = embedder.embed(data.faces)
        result = evaluate(embeddings, data, method=plan.method, head=classifier.head if classifier else None)
        shown = examples(result.answers, embeddings, data) if result.answers else ()
        if result.identification is None:
            note("no test photo is of a person in the gallery: nothing to identify")
    if plan.lfw is not None and plan.pairs is not None:
        protocol = verify_photos(
            embedder,
            plan.lfw,
            plan.pairs,
            train_pairs=plan.train_pairs,
            detector=plan.detector,
            threads=plan.threads,
            progress=progress,
        )
        result = replace(
            result,
            verification=protocol.verification,
            pairs=protocol.pairs,
            people=protocol.people,
            by_yaw=protocol.by_yaw,
        )
    if plan.cfp is not None:
        measured = verify_cfp(
            embedder, plan.cfp, folds=plan.folds, detector=plan.detector, threads=plan.threads, progress=progress
        )
        result = replace(result, cfp=measured)
    if plan.open_set is not None:
        found = load_detector(plan.detector, threads=plan.threads)
        known, unknown = (
            embed_people(embedder, folder, found, progress, to_enroll=place == 0)
            for place, folder in enumerate(plan.open_set)
        )
        for folder, kind in zip(plan.open_set, (known, unknown), strict=True):
            if kind.failed:
                count = f"{kind.failed} photo{'' if kind.failed == 1 else 's'}"
                note(f"{folder}: {count} left out: no face found, or not to be read")
        if both := in_both(known, unknown, embedder.contract):
            who, other, score = both[0]
            people = f"{len(both)} {'person is' if len(both) == 1 else 'people are'}"
            note(
                f"{plan.open_set[1]}: {people} probably known, such as {who} (score {score:.2f} with {other}); "
                "the FPIR is too high by them"
            )
        result = replace(result, open_set=measure_open_set(known, unknown, embedder.contract))
    if groups is not None:
        if result.pairs is None or result.verification is None:
            raise UsageError("rates by group need pairs of one person and pairs of two; one kind is missing")
        rates = group_rates(result.pairs, result.people, groups, result.verification.threshold)
        result = replace(result, groups=rates)
    return Measured(result, data, shown)


def _open(model: Path, plan: Plan, reporter: Reporter) -> tuple[Embedder, FaceData | None]:
    """The model, and the faces of ``plan.data`` where its contract was held against them."""
    if plan.contract is None:
        return open_embedder(model, threads=plan.threads), None
    contract = contract_of(model, plan.contract)
    if plan.data is None:
        if contract is None:
            raise UsageError("--contract auto measures on the faces of --data FOLDER; name it")
        return open_embedder(model, threads=plan.threads, contract=contract), None
    from edgeface_export.contracts import doubt, drafted, find_contract

    size = drafted(model).input.size if contract is None else contract.input.size
    data = open_faces(plan.data, size=size, reporter=reporter)
    faces, labels = held_against(data)
    if contract is None:
        found = find_contract(model, faces, labels)
        reporter.say(f"{model}: contract {found.said}")
        contract = found.best
    elif doubtful := doubt(model, contract, faces, labels):
        reporter.say(doubtful.said)
    return open_embedder(model, threads=plan.threads, contract=contract), data


def held_against(data: FaceData) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(Faces, labels) that a contract is held against: those that do not test, where they show people twice."""
    rows = data.rows("train", "val")
    _, counts = np.unique(data.labels[rows], return_counts=True)
    rows = rows if (counts > 1).sum() > 1 else np.arange(len(data.labels))
    return data.faces[rows], data.labels[rows]
