"""``report.html`` of a training run: how it went, whom it takes for whom, what it was made with, what to do next."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData
from edgeface.evaluation.identification import Answers, identify
from edgeface.evaluation.tails import TarAtFar, all_against_all, tar_at_far
from edgeface.evaluation.verification import Pairs, all_pairs, equal_error_rate, pair_photos
from edgeface.report.curves import curve_pictures
from edgeface.report.pictures import face_uri
from edgeface.report.runs import FAR, PAGE, SUMMARY, Run, Validation, measure, read_run
from edgeface.templates import environment
from edgeface.training.augment import augment, draw, normalize
from edgeface.training.checkpoints import load_checkpoint
from edgeface.training.config import TrainConfig, as_dict, by_key
from edgeface.training.devices import best_device
from edgeface.training.schedule import Epoch, in_words, step_seed
from edgeface.training.setting import shown_value
from edgeface_export.gate import COIN, alike
from edgeface_export.rewrite import torch_embeddings
from edgeface_runtime import UsageError
from edgeface_runtime.checks import shown
from edgeface_runtime.files import write_text

PEOPLE, PER_PERSON, PROBES = 1000, 5, 2000
"""At most so many people, training photos of each and validation photos are embedded for the page."""
_EXAMPLES, _VARIANTS = 6, 3
"""Training photos shown, and how often each with another augmentation."""
_PAIRS = 12
"""Confusions shown, or pairs of people who are alike."""
_ROWS = 300
"""People in the table."""

Tile = tuple[str, str]
"""A data URI and a caption."""


@dataclass(frozen=True, eq=False)
class _Named:
    """Validation photos named by the kept model, with the training photos that stand for each person."""

    gallery: NDArray[np.int64]
    """(N,) rows of the data."""
    probes: NDArray[np.int64]
    """(M,) rows of the data."""
    known: NDArray[np.float32]
    """(N, D) embeddings of the gallery."""
    probed: NDArray[np.float32]
    """(M, D) embeddings of the probes."""
    answers: Answers


def write_run_page(folder: Path, data: FaceData, curves: Sequence[Epoch] | None = None) -> Run:
    """Writes ``report.html`` and ``summary.json`` of a run that has ended, and gives what they say.

    Test photos are not looked at, so that choosing between runs by their pages leaves ``edgeface eval`` a fair judge.

    Args:
        folder: of the run.
        data: the faces that it was trained on.
        curves: as ``train`` gave them; those of the folder where None.

    Raises:
        UsageError: a file cannot be written, or the run's own cannot be read.
    """
    run = read_run(folder)
    run = run if curves is None else replace(run, curves=tuple(curves))
    if run.record is None or not run.curves:
        raise UsageError(f"{shown(folder)}: no page of a run without an epoch ({run.problem or run.state})")
    named = _name(folder, data, run.record.config.system.seed)
    record = run.record
    run = replace(
        run,
        problem=None,
        validation=None if named is None else _validation(named, data),
        refused=_refused(folder, named, data),
    )
    settings, usual = run.settings, by_key(as_dict(TrainConfig()))
    page = (
        environment(Path(__file__).parent)
        .get_template("run.html.j2")
        .render(
            run=run,
            record=record,
            name=shown(folder),
            measured=None if run.best is None else measure(run.best),
            time=None if run.seconds is None else in_words(run.seconds),
            pictures=curve_pictures({"": run.curves}),
            examples=_augmented(data, record.config),
            confused=[] if named is None else _confused(named, data),
            alike=[] if named is None else _alike(named, data),
            people=[] if named is None else _people(named, data),
            people_shown=_ROWS,
            is_sample=named is not None and len(named.probes) < len(data.rows("val")),
            settings=[(key, shown_value(value), shown_value(usual[key])) for key, value in settings.items()],
            made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            version=importlib.metadata.version("edgeface"),
        )
    )
    write_text(folder / PAGE, page, private=True)  # it shows faces
    write_text(folder / SUMMARY, json.dumps(run.as_json(), indent=2) + "\n")
    return run


def _name(folder: Path, data: FaceData, seed: int) -> _Named | None:
    """None where no validation photo is of a person who trains beside another one."""
    rng = np.random.default_rng(seed)
    train, probes = data.rows("train"), data.rows("val")
    people = np.intersect1d(data.labels[probes], data.labels[train])
    people = np.sort(rng.choice(people, min(PEOPLE, len(people)), replace=False))
    probes = probes[np.isin(data.labels[probes], people)]
    probes = np.sort(rng.choice(probes, min(PROBES, len(probes)), replace=False))
    if len(people) < 2 or not len(probes):
        return None
    gallery = training_photos(people, data)
    known, probed = embedded_rows(folder, data, gallery, probes)
    answers = identify(known, data.labels[gallery], probed, data.labels[probes])
    return _Named(gallery, probes, known, probed, answers)


def _validation(named: _Named, data: FaceData) -> Validation:
    labels = data.labels[named.probes]
    people = len(np.unique(labels))
    tar = TarAtFar(None, reason="the validation photos show no person twice, or one person alone")
    if people not in (1, len(labels)):
        tar = tar_at_far(all_against_all(named.probed, labels), FAR)
    right = int((named.answers.named == named.answers.truth).sum())
    return Validation(people=people, photos=len(labels), right=right, tar=tar)


def _refused(folder: Path, named: _Named | None, data: FaceData) -> str | None:
    """Why ``edgeface export`` would refuse the model, by its own limits: on validation photos, each against training
    photos; without any, on training photos alone."""
    if named is None:
        rows = training_photos(np.unique(data.labels[data.rows("train")])[:PEOPLE], data)
        rows = rows[pair_photos(data.labels[rows])]
        (embedded,) = embedded_rows(folder, data, rows)
        pairs = all_pairs(embedded, data.labels[rows])
    else:
        embedded = np.concatenate([named.known, named.probed])
        scores = named.probed.astype(np.float64) @ named.known.astype(np.float64).T
        first, second = np.broadcast_arrays(data.labels[named.probes][:, None], data.labels[named.gallery])
        pairs = Pairs(scores.ravel(), first.ravel(), second.ravel())
    if alike(embedded):
        return "it gives every face the same embedding"
    if pairs.has_both_kinds and (eer := equal_error_rate(pairs)[0]) > COIN:
        return f"it tells people apart no better than a coin (equal error rate {100 * eer:.0f} %)"
    return None


def training_photos(people: NDArray[np.int64], data: FaceData) -> NDArray[np.int64]:
    """(N,) rows of the first training photos, at most ``PER_PERSON``, of each of the people."""
    train = data.rows("train")
    return np.concatenate([train[data.labels[train] == person][:PER_PERSON] for person in people])


def embedded_rows(source: str | Path, data: FaceData, *parts: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """(N, D) unit rows of each of some sets of rows, by the model of a run folder or checkpoint."""
    checkpoint = load_checkpoint(source)
    net, spec = checkpoint.net.to(best_device()), checkpoint.contract.input
    return [torch_embeddings(net, spec, data.faces[rows]) for rows in parts]


def _augmented(data: FaceData, config: TrainConfig) -> list[list[Tile]]:
    """Rows of a training photo, as it is and as steps see it."""
    train = data.rows("train")
    _, first = np.unique(data.labels[train], return_index=True)
    rows = train[first[:: max(1, len(first) // _EXAMPLES)][:_EXAMPLES]]
    generator = torch.Generator().manual_seed(step_seed(config.system.seed, 0, 0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in config.model.pixel_statistics)
    faces = normalize(torch.from_numpy(np.array(data.faces[rows])), *config.model.pixel_statistics)
    shown_rows = [[(face_uri(data.faces[row]), data.identities[data.labels[row]])] for row in rows]
    for _ in range(_VARIANTS):
        drawn = draw(len(rows), generator).part(slice(None), faces.device)
        seen = (augment(faces, drawn, config.augment) * std + mean).clamp(0, 255).round().byte()
        for tiles, face in zip(shown_rows, seen.permute(0, 2, 3, 1).numpy(), strict=True):
            tiles.append((face_uri(face), "augmented"))
    return shown_rows


def _confused(named: _Named, data: FaceData) -> list[tuple[str, list[Tile]]]:
    """The pairs of people that were confused most often: how often, a photo, and whom it was taken for."""
    answers = named.answers
    wrong = np.flatnonzero(answers.named != answers.truth)
    counts = Counter((int(answers.truth[at]), int(answers.named[at])) for at in wrong)
    found = []
    for (truth, taken), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_PAIRS]:
        these = [at for at in wrong if (answers.truth[at], answers.named[at]) == (truth, taken)]
        at = max(these, key=lambda at: float(answers.scores[at]))
        of_taken = np.flatnonzero(data.labels[named.gallery] == taken)
        nearest = of_taken[(named.known[of_taken] @ named.probed[at]).argmax()]
        photos = "1 photo" if count == 1 else f"{count} photos"
        tiles = [
            (face_uri(data.faces[named.probes[at]]), data.identities[truth]),
            (face_uri(data.faces[named.gallery[nearest]]), f"taken for {data.identities[taken]}"),
        ]
        found.append((photos, tiles))
    return found


def _alike(named: _Named, data: FaceData) -> list[tuple[str, list[Tile]]]:
    """The pairs of people whose mean embeddings are nearest: their cosine, and a training photo of each."""
    labels = data.labels[named.gallery]
    people, index = np.unique(labels, return_inverse=True)
    means = np.stack([named.known[index == number].mean(0) for number in range(len(people))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = np.triu(means @ means.T, 1) - 2 * np.tri(len(people))
    found = []
    for flat in np.argsort(-cosines, axis=None)[: min(_PAIRS // 2, len(people) * (len(people) - 1) // 2)]:
        both = np.unravel_index(flat, cosines.shape)
        firsts = [named.gallery[np.flatnonzero(index == number)[0]] for number in both]
        tiles = [(face_uri(data.faces[row]), data.identities[data.labels[row]]) for row in firsts]
        found.append((f"cosine {cosines[both]:.2f}", tiles))
    return found


def _people(named: _Named, data: FaceData) -> list[tuple[str, int, int, int, str]]:
    """Name, training and validation photos, photos named rightly, and whom the others were taken for; worst first."""
    train, answers = data.labels[data.rows("train")], named.answers
    rows = []
    for person in np.unique(answers.truth).tolist():
        given = answers.named[answers.truth == person].tolist()
        wrong = Counter(label for label in given if label != person).most_common(1)
        taken = data.identities[wrong[0][0]] if wrong else ""
        rows.append((data.identities[person], int((train == person).sum()), len(given), given.count(person), taken))
    return sorted(rows, key=lambda row: (row[3] / row[2], row[0]))
