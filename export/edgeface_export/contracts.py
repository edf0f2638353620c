"""Contracts of third-party models: those of public nets by name, and the one that a file itself answers best to."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_export.gate import COIN, FMR, GENUINE
from edgeface_export.separation import Z, draw_pairs, mean_tar, separation, tar_loss
from edgeface_runtime import Contract, EmbeddingSpec, InputSpec, ModelError, UsageError, load
from edgeface_runtime.engines import Engine, first_line, open_engine

AUTO = "auto"
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class NamedContract:
    """What the publisher of a net says about feeding it."""

    colour: str
    mean: Triple
    std: Triple
    size: int = 112
    source: str
    """The repository and file that say so."""
    licence: str
    crops: str = "ArcFace's template of five points"
    """How its training faces were aligned."""


HALF, UNIT = (127.5, 127.5, 127.5), (128.0, 128.0, 128.0)
ZERO, ONE, FULL = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (255.0, 255.0, 255.0)
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

NAMED = {
    "insightface": NamedContract(
        colour="RGB", mean=HALF, std=HALF,
        source="deepinsight/insightface, python-package/insightface/model_zoo/arcface_onnx.py",
        licence="non-commercial research (InsightFace's model packs)",
    ),
    "insightface-mxnet": NamedContract(
        colour="RGB", mean=ZERO, std=ONE,
        source="the same file: graphs of MXNet that begin with Sub and Mul normalize themselves",
        licence="non-commercial research (InsightFace's model packs)",
    ),
    "sface": NamedContract(
        colour="RGB", mean=ZERO, std=ONE,
        source="opencv/opencv, modules/objdetect/src/face_recognize.cpp",
        licence="Apache-2.0 (OpenCV Zoo)",
    ),
    "edgeface": NamedContract(
        colour="RGB", mean=HALF, std=HALF, source="otroshi/edgeface, README.md", licence="CC BY-NC-SA 4.0 (Idiap)",
    ),
    "adaface": NamedContract(
        colour="BGR", mean=HALF, std=HALF, source="mk-minchul/AdaFace, inference.py", licence="MIT by its publisher",
    ),
    "magface": NamedContract(
        colour="BGR", mean=ZERO, std=FULL, source="IrvingMeng/MagFace, inference/gen_feat.py", licence="MIT",
    ),
    "ghostfacenets": NamedContract(
        colour="RGB", mean=HALF, std=UNIT, source="HamadYA/GhostFaceNets, evals.py", licence="MIT",
    ),
    "facenet160": NamedContract(
        colour="RGB", mean=HALF, std=UNIT, size=160,
        source="timesler/facenet-pytorch, models/mtcnn.py (fixed_image_standardization)",
        licence="MIT; VGGFace2 and CASIA-WebFace stand behind its weights",
        crops="MTCNN's boxes with a margin, scaled to a square, not aligned",
    ),
    "foamliu": NamedContract(
        colour="RGB", mean=IMAGENET[0], std=IMAGENET[1], source="foamliu/MobileFaceNet, data_gen.py",
        licence="Apache-2.0",
    ),
    "sirius": NamedContract(
        colour="RGB", mean=HALF, std=UNIT, source="sirius-ai/MobileFaceNet_TF, utils/data_process.py",
        licence="Apache-2.0",
    ),
}  # fmt: skip
"""Name → what its publisher says."""

NORMALIZATIONS = ((HALF, HALF), (HALF, UNIT), IMAGENET, (ZERO, FULL), (ZERO, ONE))
"""(Mean, standard deviation) of every net in ``NAMED``, the most frequent first."""
_FACES, _FIRST, _EACH = 240, 96, 6
_NEAR = 0.25
"""A way to feed that is so far behind with the first faces is not looked at with more."""
_OTHER = 0.02
"""Mean difference of the pairs' cosines from which two ways to feed give other embeddings."""
_DOUBT, _WRONG = 0.01, 0.05
"""Mean TAR by which another way to feed is better, from which a contract is doubted, and refused."""


@dataclass(frozen=True)
class Found:
    """What a file answers to."""

    best: Contract
    said: str
    """One line for a person."""
    doubt: str = ""
    """The same line where chance or grey photos may have chosen; empty where the faces tell."""
    is_guess: bool = False
    """True where the faces are few and a way to feed with other embeddings is as good."""


def named_contract(path: Path, name: str) -> Contract:
    """The contract of a public net, its layout, size and length taken from the file.

    Args:
        path: an ONNX or TFLite file.
        name: a key of ``NAMED``.

    Raises:
        UsageError: no such name.
        ModelError: no model file, or one of another size.
    """
    if name not in NAMED:
        raise UsageError(f"{name}: no contract file and no known name; there are {', '.join((AUTO, *NAMED))}")
    known = NAMED[name]
    drawn = drafted(path, known.size)
    if drawn.input.size != known.size:
        raise ModelError(f"{path}: takes faces of {drawn.input.size} pixels, {name} of {known.size}")
    spec = replace(drawn.input, colour=known.colour, mean=known.mean, std=known.std)
    return replace(drawn, backbone=name, input=spec, licence=f"{known.licence}; {known.source}")


def drafted(path: Path, size: int = 112) -> Contract:
    """What a file itself says: layout, size, type and length; RGB and (pixel − 127.5) / 127.5 where nothing does.

    Args:
        path: an ONNX or TFLite file.
        size: of the faces where the file takes any.

    Raises:
        ModelError: no model file, or not one that takes one picture and gives one row for it.
    """
    engine = open_engine(path)
    batch, *sides = engine.input_shape
    if len(sides) != 3 or 3 not in (sides[0], sides[2]):
        raise ModelError(
            f"{path}: takes {engine.input_shape}, no pictures of three channels; write its contract by hand"
        )
    layout = "NCHW" if sides[0] == 3 else "NHWC"
    side = (sides[1] or size) if layout == "NCHW" else (sides[0] or size)
    shape = (batch or 1, *((3, side, side) if layout == "NCHW" else (side, side, 3)))
    dtype, output = _answer(path, engine, shape)
    return Contract(
        name=path.name.split(".")[0] or "model",
        backbone="unknown",
        input=InputSpec(size=side, layout=layout, dtype=dtype),
        embedding=EmbeddingSpec(length=output.size // (batch or 1)),
    )


def _answer(path: Path, engine: Engine, shape: tuple[int, ...]) -> tuple[str, NDArray[np.float32]]:
    """(Its input's type, what it answers to zeros)."""
    reason: Exception | None = None
    for dtype in ("float32", "uint8"):
        try:
            return dtype, engine.run(np.zeros(shape, dtype))[0]
        except Exception as error:  # each engine raises types of its own
            reason = reason or error
    assert reason is not None
    raise ModelError(f"{path}: does not run on zeros of {shape}: {first_line(reason)}; write its contract by hand")


def find_contract(path: Path, faces: NDArray[np.uint8], labels: NDArray[np.int64]) -> Found:
    """The way to feed a file with which it tells people apart best: colour order × normalization.

    Args:
        path: an ONNX or TFLite file.
        faces: (N, S, S, 3) uint8 RGB aligned faces, S as in ``drafted``.
        labels: (N,) whom each shows.

    Raises:
        UsageError: faces of too few people, or of one photo each.
        ModelError: no way to feed it tells people apart.
    """
    if not _shows_pairs(labels):
        raise UsageError("--contract auto needs photos of two people or more, two of each at least")
    drawn = drafted(path)
    tried = _tried(path, _candidates(drawn, faces), faces, labels)
    best, scores = tried.ways[0], tried.scores
    top, eer = mean_tar(scores[0], tried.same), tried.eer(0)
    if eer > COIN:
        raise ModelError(
            f"{path}: no way to feed it tells people apart (equal error rate {100 * eer:.0f} % at best): is it a face "
            "embedder, and are the photos aligned faces under the right names?"
        )
    line = f"found: {described(best)}: mean TAR {100 * top:.1f} % on {len(tried.labels)} faces"
    equal = [way for way, behind in zip(tried.ways[1:], tried.behind(), strict=True) if behind[0] < _DOUBT / 2]
    near = [
        scores
        for scores, (loss, error) in zip(tried.scores[1:], tried.behind(), strict=True)
        if loss < _DOUBT / 2 or loss <= Z * error
    ]
    is_tied = any(np.abs(scores - tried.scores[0]).mean() > _OTHER for scores in near)
    genuine = int(tried.same.sum())
    is_guess = is_tied and genuine < GENUINE
    others = [(way, behind) for way, behind in zip(tried.ways[1:], tried.behind(), strict=True) if way not in equal]
    if equal:
        line += f"; as good: {', '.join(map(described, equal))}"
    if others:
        way, (loss, error) = others[0]
        sure = "" if loss > Z * error else ", which chance can make: give more photos"
        line += f"; the next, {described(way)}, is {100 * loss:.1f} ± {100 * Z * error:.1f} points behind{sure}"
    else:
        line += f"; all others are more than {100 * _NEAR:.0f} points behind"
    if is_grey := _is_grey(faces):
        line += "; the photos are grey, so the order of colours cannot be told"
    if is_guess:
        line += f"; {_few(len(tried.labels), genuine, 'tell these apart')}, or name the contract"
    return Found(best, line, line if is_tied or is_grey else "", is_guess)


@dataclass(frozen=True)
class Doubt:
    """Why a contract may be another's."""

    said: str
    """One line for a person."""
    is_wrong: bool
    """True where another way to feed is so much better that the contract cannot be right."""


def doubt(path: Path, contract: Contract, faces: NDArray[np.uint8], labels: NDArray[np.int64]) -> Doubt | None:
    """What to say where a file tells people apart clearly better when it is fed otherwise, or where the faces are too
    few to tell; None where neither is so.

    Args:
        path: an ONNX or TFLite file.
        contract: that it is said to have.
        faces: (N, S, S, 3) uint8 RGB aligned faces.
        labels: (N,) whom each shows.
    """
    if not _shows_pairs(labels):
        return Doubt(f"{path}: {_few(len(labels), 0, 'check its contract')}", is_wrong=False)
    ways = [contract, *(way for way in _candidates(contract, faces) if way.input != contract.input)]
    tried = _tried(path, ways, faces, labels)
    place = tried.ways.index(contract)
    genuine = int(tried.same.sum())
    few = f"{path}: {_few(len(tried.labels), genuine, 'check its contract')}"
    unsure = Doubt(few, is_wrong=False) if genuine < GENUINE else None
    if place == 0:
        return unsure
    loss, error = tar_loss(tried.scores[0], tried.scores[place], tried.same, tried.first, tried.second)
    if loss < _DOUBT or loss < Z * error:
        return unsure
    line = (
        f"{path}: its contract says {described(contract)}, yet fed {described(tried.ways[0])} it tells people apart "
        f"better (mean TAR {100 * mean_tar(tried.scores[0], tried.same):.1f} against "
        f"{100 * mean_tar(tried.scores[place], tried.same):.1f} %, on {len(tried.labels)} faces)"
    )
    return Doubt(f"{line}: is the contract right? --contract auto measures it", loss > _WRONG)


def described(contract: Contract) -> str:
    """How a file is fed, in words."""
    spec = contract.input
    if spec.dtype == "uint8":
        return f"{spec.colour} as bytes"
    mean, std = (f"{each[0]:g}" if len(set(each)) == 1 else f"({', '.join(f'{x:g}' for x in each)})" for each in (
        spec.mean, spec.std,
    ))  # fmt: skip
    return f"{spec.colour}, (pixel − {mean}) / {std}"


def _few(faces: int, genuine: int, what: str) -> str:
    return (
        f"{faces} faces with {genuine} genuine pairs are too few to {what}: {GENUINE} genuine pairs are needed, such "
        f"as {GENUINE // 15} people with six photos each"
    )


def _candidates(contract: Contract, faces: NDArray[np.uint8]) -> list[Contract]:
    spec = contract.input
    colours = ("RGB",) if _is_grey(faces) else ("RGB", "BGR")
    normalizations = NORMALIZATIONS if spec.dtype == "float32" else ((spec.mean, spec.std),)
    return [
        replace(contract, input=replace(spec, colour=colour, mean=mean, std=std))
        for (mean, std), colour in itertools.product(normalizations, colours)
    ]


def _shows_pairs(labels: NDArray[np.int64]) -> bool:
    _, counts = np.unique(labels, return_counts=True)
    return int((counts > 1).sum()) > 1


def _is_grey(faces: NDArray[np.uint8]) -> bool:
    return bool((faces[:: max(1, len(faces) // 16), ..., 0] == faces[:: max(1, len(faces) // 16), ..., 2]).all())


@dataclass(frozen=True, eq=False)
class _Tried:
    """Ways to feed a file, the best first, with their scores of the same pairs."""

    ways: list[Contract]
    scores: list[NDArray[np.float32]]
    same: NDArray[np.bool_]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    labels: NDArray[np.int64]

    def eer(self, place: int) -> float:
        return separation(self.scores[place], self.same, self.first, self.second, FMR).eer

    def behind(self) -> list[tuple[float, float]]:
        """(Loss of mean TAR to the best, its standard error) of each other way."""
        return [tar_loss(self.scores[0], other, self.same, self.first, self.second) for other in self.scores[1:]]


def _tried(path: Path, ways: Sequence[Contract], faces: NDArray[np.uint8], labels: NDArray[np.int64]) -> _Tried:
    """Feeds a few faces in all ways, and more of them in those that are not far behind."""
    for count in (_FIRST, _FACES):
        rows = _sample(labels, count)
        pairs = draw_pairs(labels[rows])
        first, second = labels[rows][pairs].T
        same = first == second
        scores = []
        for way in ways:
            answers = load(path, contract=way).embed(faces[rows])
            scores.append((answers[pairs[:, 0]] * answers[pairs[:, 1]]).sum(axis=1))
        tars = np.array([mean_tar(each, same) for each in scores])
        order = np.argsort(-tars, kind="stable")
        found = _Tried(
            [ways[place] for place in order], [scores[place] for place in order], same, first, second, labels[rows]
        )
        # The first way stays: it is the given contract, or the most frequent.
        ways = [way for place, way in enumerate(ways) if place == 0 or tars[place] > tars.max() - _NEAR]
    return found


def _sample(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Rows of at most ``count`` faces of people with two or more, at most six of each."""
    rng, rows = np.random.default_rng(0), list[int]()
    for label in rng.permutation(np.unique(labels)):
        mine = np.flatnonzero(labels == label)
        if len(mine) > 1 and len(rows) < count:
            rows += rng.permutation(mine)[:_EACH].tolist()
    return np.sort(np.array(rows[:count], np.int64))
