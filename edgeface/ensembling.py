"""Several model files as one: which weight each has, what all together answer, and one file that holds them.

The score of two faces is the weighted mean of the members' cosines. The weights are chosen on a third of the people;
figures and thresholds come from the others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData
from edgeface.evaluation.opening import EXPORTED
from edgeface.evaluation.tails import TarAtFar, all_against_all, tar_at_far, thresholds
from edgeface_export.gate import compare_speed
from edgeface_export.separation import draw_pairs, few_people, mean_tar, separation
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, Model, UsageError, load, read_contract
from edgeface_runtime.contract import Golden, HardFaces, Member, OperatorCost, seal
from edgeface_runtime.files import check_target, replacing
from edgeface_runtime.metadata import KEY, MEMBER, write_tar
from edgeface_runtime.model import PROBES, find_model, probe_images

FMRS = (0.01, 0.001)
"""At which the members and the ensemble are compared."""
MOST_MEMBERS = 4
SUFFIX = ".ensemble"
_PARTS = 10
"""Weights are whole tenths."""
_PHOTOS = 15_000
_MIN_GOLDEN = 0.99
_NOT_ALIGNED = "the faces are not aligned as a device aligns them, whose scores are others"


@dataclass(frozen=True)
class Compared:
    """A member, or the whole ensemble, on the people that had no say in the weights."""

    name: str
    weight: float
    tar: dict[str, TarAtFar]
    """Genuine pairs accepted at each of ``FMRS``."""
    mean_tar: float
    """The same, averaged over false match rates from 0.001 to 0.1."""
    cpu_ms: float
    """Processor time of one face here, calls in turns, one thread."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What was made."""

    path: Path
    contract: Contract
    rows: tuple[Compared, ...]
    """The members, then all together."""
    photos: int
    people: int

    @property
    def is_better(self) -> bool:
        """Whether it accepts more genuine pairs than its best member."""
        *members, whole = self.rows
        return whole.mean_tar > max(member.mean_tar for member in members)

    def as_json(self) -> dict[str, object]:
        """The document of ``edgeface ensemble --json``, schema 1."""
        rows = [
            dataclasses.asdict(row) | {"tar": {rate: at.value for rate, at in row.tar.items()}} for row in self.rows
        ]
        return {
            "schema": 1,
            "path": str(self.path),
            "members": rows[:-1],
            "ensemble": rows[-1],
            "better": self.is_better,
            "photos": self.photos,
            "people": self.people,
            "thresholds": self.contract.thresholds,
        }


def make_ensemble(files: Sequence[str | Path], data: FaceData, path: Path) -> Ensemble:
    """Writes an ensemble: an archive of the model files with a contract of its own.

    Args:
        files: two to ``MOST_MEMBERS`` exported model files or names of shipped ones, which take the same aligned face.
        data: photos of people that no member was trained on; of photos that one was trained on, the people without
            training photos.
        path: to write, ``NAME.ensemble``.

    Raises:
        UsageError: files that do not go together, too few people, or a path that cannot be written.
        ModelError: a file is no model, is damaged, or carries no contract.
    """
    if path.suffix != SUFFIX or not path.stem:
        raise UsageError(f"{path}: the name of an ensemble ends with .ensemble")
    check_target(path)
    models = _members(files)
    weighing, judging = _people(data, models)
    embedded = [model.embed(data.faces[np.concatenate([weighing, judging])]) for model in models]
    weights = best_weights([rows[: len(weighing)] for rows in embedded], data.labels[weighing])
    judged = [rows[len(weighing) :] for rows in embedded]
    together = _together(judged, weights)
    labels = np.unique(data.labels[judging], return_inverse=True)[1]
    pairs = draw_pairs(labels)
    found, facts = thresholds(together, labels, None if data.is_aligned else _NOT_ALIGNED)
    accuracy = {"verification": _verification(together, labels, pairs), "thresholds": facts}
    held = {f"{MEMBER}{place}{model.path.suffix}": model.path.read_bytes() for place, model in enumerate(models)}
    contract = _contract(path.stem, models, weights, held)
    contract = dataclasses.replace(contract, thresholds=found, accuracy=accuracy)
    with replacing(path) as beside:
        write_tar(beside, held | {f"{KEY}.json": contract.to_json().encode()})
        seal(beside)
    ensemble = load(path)
    rows = [*judged, together]
    ms = compare_speed([*models, ensemble])
    names = [model.path.name for model in models]
    compared = [
        _compared(name, share, each, labels, pairs, cpu_ms)
        for name, share, each, cpu_ms in zip([*names, path.name], [*weights, 1.0], rows, ms, strict=True)
    ]
    return Ensemble(
        path=path, contract=ensemble.contract, rows=tuple(compared), photos=len(judging), people=int(labels.max()) + 1
    )


def best_weights(embeddings: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> tuple[float, ...]:
    """The weights, each a tenth or more and 1 together, with which most genuine pairs are accepted.

    Of all in whole tenths those with the highest TAR averaged over false match rates from 0.001 to 0.1; of equal ones
    the most even.

    Args:
        embeddings: (N, D) float32 unit rows of each member.
        labels: (N,) identities.

    Raises:
        UsageError: no genuine pair, or no impostor pair.
    """
    first, second = draw_pairs(labels, count=20_000).T
    same = labels[first] == labels[second]
    scores = np.stack([np.einsum("nd,nd->n", rows[first], rows[second]) for rows in embeddings], axis=1)
    possible = [parts for parts in itertools.product(range(1, _PARTS), repeat=len(embeddings)) if sum(parts) == _PARTS]
    possible.sort(key=lambda parts: sum(part * part for part in parts))
    best = max(possible, key=lambda parts: mean_tar(scores @ (np.array(parts) / _PARTS), same))
    return tuple(part / _PARTS for part in best)


def _members(files: Sequence[str | Path]) -> list[Model]:
    if not 2 <= len(files) <= MOST_MEMBERS:
        raise UsageError(f"an ensemble has 2 to {MOST_MEMBERS} model files, not {len(files)}")
    paths = [find_model(file) for file in files]
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise UsageError(f"{path}: named twice")
    for path in paths:
        if path.suffix not in EXPORTED or path.suffix == SUFFIX:
            what = "an ensemble itself: name its members" if path.suffix == SUFFIX else "not an exported model file"
            raise UsageError(f"{path}: {what}")
    first, *sizes = (read_contract(path).input.size for path in paths)
    for path, size in zip(paths[1:], sizes, strict=True):
        if size != first:
            raise UsageError(
                f"{path} takes faces of {size} px, {paths[0]} of {first}: the members of an ensemble get the same crop"
            )
    return [load(path) for path in paths]


def _people(data: FaceData, models: Sequence[Model]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the people who choose the weights, one in three, and of the others, who are measured on."""
    rows = np.arange(len(data.labels))
    for model in models:
        if leak := data.split_since(model.contract):
            raise UsageError(leak)
        if model.contract.photos_sha256 == data.photos_sha256():
            rows = rows[~np.isin(data.labels[rows], data.labels[data.rows("train")])]
    people = np.unique(data.labels[rows])
    few = (
        f"{len(people)} people that no member was trained on" if len(people) else "only people a member was trained on"
    )
    if len(people) < 6:
        raise UsageError(f"the photos show {few}; it takes 6 or more, of whom a third chooses the weights")
    turn = np.random.default_rng(0).permutation(people)
    weighing, judging = (
        rows[np.isin(data.labels[rows], chosen)] for chosen in (turn[: len(turn) // 3], turn[len(turn) // 3 :])
    )
    return weighing, judging[few_people(data.labels[judging], np.random.default_rng(0), _PHOTOS)]


def _verification(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], pairs: NDArray[np.int64]
) -> dict[str, float]:
    first, second = pairs.T
    same = labels[first] == labels[second]
    scores = np.einsum("nd,nd->n", embeddings[first], embeddings[second])
    found = separation(scores, same, labels[first], labels[second], FMRS[-1])
    figures = {"value": found.accuracy, "low": found.interval[0], "high": found.interval[1], "eer": found.eer}
    counts = {"pairs": len(pairs), "genuine": int(same.sum()), "base_rate": 0.5}
    return counts | {key: round(value, 5) for key, value in figures.items()}


def _compared(
    name: str, weight: float, rows: NDArray[np.float32], labels: NDArray[np.int64], pairs: NDArray[np.int64], ms: float
) -> Compared:
    scores = all_against_all(rows, labels)
    first, second = pairs.T
    spread = np.einsum("nd,nd->n", rows[first], rows[second])
    tar = {f"{rate:g}": tar_at_far(scores, rate) for rate in FMRS}
    return Compared(name, weight, tar, mean_tar(spread, labels[first] == labels[second]), ms)


def _together(rows: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32]:
    """The members' unit rows side by side, each times the root of its weight: unit rows again."""
    return np.concatenate([np.float32(math.sqrt(weight)) * each for weight, each in zip(weights, rows, strict=True)], 1)


def _contract(name: str, models: Sequence[Model], weights: Sequence[float], held: Mapping[str, bytes]) -> Contract:
    """As far as the members say it; their graphs take the face in whatever form, the ensemble as RGB pixels."""
    contracts = [model.contract for model in models]
    digests = [hashlib.sha256(content).hexdigest() for content in held.values()]
    kinds = list(dict.fromkeys(contract.precision for contract in contracts))
    parents = [contract.parent_sha256 or digest for contract, digest in zip(contracts, digests, strict=True)]
    licences = dict.fromkeys(contract.licence for contract in contracts)
    golden = [contract.golden.min_cosine for contract in contracts if contract.golden]
    answers = _together([model.embed(probe_images(contracts[0].input.size)) for model in models], weights)
    operators: Counter[str] = Counter()
    cost: dict[str, OperatorCost] = {}
    for contract in contracts:
        operators.update(contract.operators)
        for kind, its in contract.cost.items():
            old = cost.get(kind, OperatorCost(count=0, macs=0, bytes=0))
            cost[kind] = OperatorCost(
                count=old.count + its.count, macs=old.macs + its.macs, bytes=old.bytes + its.bytes
            )
    return Contract(
        name=name,
        backbone=" + ".join(contract.backbone for contract in contracts),
        precision=kinds[0] if len(kinds) == 1 else "mixed",
        recipe="ensemble",
        input=InputSpec(size=contracts[0].input.size),
        embedding=EmbeddingSpec(length=sum(contract.embedding.length for contract in contracts), normalised=True),
        parent_sha256=hashlib.sha256(json.dumps([parents, list(weights)]).encode()).hexdigest(),
        hard_faces=_hard_faces(contracts, weights),
        operators=dict(operators),
        cost=cost if all(contract.cost for contract in contracts) else {},
        members=tuple(
            Member(file=file, name=contract.name, weight=weight, sha256=digest)
            for file, contract, weight, digest in zip(held, contracts, weights, digests, strict=True)
        ),
        golden=Golden(
            probes=PROBES,
            embeddings=tuple(tuple(round(float(value), 6) for value in row) for row in answers),
            min_cosine=min(golden, default=_MIN_GOLDEN),
        ),
        licence=(
            next(iter(licences))
            if len(licences) == 1
            else "; ".join(f"{contract.name}: {contract.licence}" for contract in contracts)
        ),
        versions={name: version for contract in contracts for name, version in contract.versions.items()},
    )


def _hard_faces(contracts: Sequence[Contract], weights: Sequence[float]) -> HardFaces | None:
    """Those of the first member that has them: its unit embedding is its part of the ensemble's, over its root."""
    place = next((place for place, contract in enumerate(contracts) if contract.hard_faces is not None), None)
    if place is None:
        return None
    known, root = contracts[place].hard_faces, math.sqrt(weights[place])
    assert known is not None
    lengths = [contract.embedding.length for contract in contracts]
    before, after = (0.0,) * sum(lengths[:place]), (0.0,) * sum(lengths[place + 1 :])

    def placed(line: tuple[float, ...]) -> tuple[float, ...]:
        return (*before, *(value / root for value in line[:-1]), *after, line[-1])

    return dataclasses.replace(known, agreement=placed(known.agreement), no_face=placed(known.no_face))
