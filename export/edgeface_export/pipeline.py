"""The one way from a source model to checked files: source → write → quantize → evaluate → gate → stamp.

The files lie in a folder that is removed at the end; those of an export get their names only when all pass the gate.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeface_export.faces import ExportFaces
from edgeface_export.formats import FORMATS, STATIC_FORMATS
from edgeface_export.gate import (
    ANYTHING,
    Operators,
    Parity,
    alike,
    check_source,
    compare_speed,
    few_genuine,
    is_int8,
    parity,
    refusal,
)
from edgeface_export.options import RECIPES, SEARCH, ExportOptions, Recipe
from edgeface_export.paced import paced
from edgeface_export.quantize.sensitivity import ExcludedLayer, exclude_layers, sensitivities
from edgeface_export.quantize.static import Calibrated, Trial, calibrate, try_methods
from edgeface_export.result import ExportedFile, ExportResult, fastest, model_card
from edgeface_export.source_model import SourceModel
from edgeface_runtime import Contract, ContractError, EdgefaceError, Model, ModelError, UsageError, load
from edgeface_runtime.contract import Golden, read_contract, seal
from edgeface_runtime.engines import first_line
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.model import PROBES, as_input, probe_images

Progress = Callable[[str], None]
_BLUE = 8.0
"""By how many levels blue exceeds red on average before faces are taken for BGR: skin has more red than blue."""


def export(
    source: SourceModel,
    faces: ExportFaces,
    folder: Path,
    options: ExportOptions,
    *,
    progress: Progress = lambda _: None,
) -> ExportResult:
    """Writes ``<name>.<precision>.<format>`` for each recipe asked for, each with its contract inside, and a card.

    Args:
        source: what the files are made from.
        faces: what calibrates, evaluates and sets thresholds.
        folder: where the files go; made if absent.
        options: how they are made.
        progress: told what is being made.

    Raises:
        UsageError: what the source cannot be written as or in, faces that do not fit, no genuine or no impostor pairs,
            a source or another model's file that would be written over, or a folder that cannot be written to.
        ModelError: a source that answers with numbers that are not finite, a converter that failed, or a file that does
            not open or does not fit its contract.
    """
    options, recipes = _recipes(source, options)
    _keep_source(source, folder, recipes)
    if options.calibrator == SEARCH and faces.selection is None:
        raise UsageError("no photos are left to choose a calibrator on; give more, or name a calibrator")
    _check_faces(faces, source.contract.input.size, progress, any(recipe.is_calibrated for recipe in recipes))
    expected = source.embed(faces.evaluation.faces)
    if not np.isfinite(expected).all():
        raise ModelError(f"{source.name}: gives embeddings that are not finite numbers")
    warning = check_source(source.name, expected, faces.evaluation, options.max_drop)
    warnings = tuple(
        line for line in (*source.warnings, warning, few_genuine(faces.evaluation, options.max_drop)) if line
    )
    for line in warnings:
        progress(line)
    with _workspace(folder) as workspace:
        job = _Job(source, faces, expected, options, workspace, progress)
        files = [_make(job, recipe) for recipe in recipes]
        progress("timing")
        files = _timed(job, files)
        reason = next((file.reason for file in files if file.reason), None)
        card = folder / _card_name(source)
        if reason is None:
            (workspace / card.name).write_text(model_card(files, options, warnings), "utf-8")
            for path in (*(file.path for file in files), workspace / card.name):
                path.replace(folder / path.name)
    made = tuple(replace(file, path=folder / file.path.name) for file in files)
    kinds = dict.fromkeys(file.format for file in made)
    recommended = {kind: fastest([file for file in made if file.format == kind]) for kind in kinds}
    return ExportResult(made, options, reason, card, recommended, warnings)


@dataclass(frozen=True, eq=False)
class _Job:
    """What all files of one export have in common."""

    source: SourceModel
    faces: ExportFaces
    expected: NDArray[np.float32]
    """(N, D) the source model's embeddings of the evaluation faces."""
    options: ExportOptions
    workspace: Path
    progress: Progress

    @property
    def contract(self) -> Contract:
        return self.source.contract

    def parity(self, model: Model) -> Parity:
        return parity(self.expected, model.embed(self.faces.evaluation.faces), self.faces.evaluation)


@dataclass(frozen=True)
class _Quantization:
    """How a file's activation ranges were found; nothing where there are none."""

    method: str | None = None
    trials: tuple[Trial, ...] = ()
    excluded: tuple[ExcludedLayer, ...] = ()
    parity: Parity | None = None
    """Of the file, where the search for layers has measured it already."""


def _make(job: _Job, recipe: Recipe) -> ExportedFile:
    """One file in the workspace: written, quantized, evaluated, sent through the gate, stamped."""
    path = job.workspace / f"{job.contract.name}.{recipe.suffix}"
    job.progress(f"writing {path.name}")
    try:
        float_file = job.source.float_file(recipe, job.workspace)
        if recipe.is_calibrated:
            quantized = _static_int8(job, recipe, float_file, path)
        else:
            quantized = _Quantization()
            FORMATS[recipe.format].WRITERS[recipe.precision](float_file, path)
        FORMATS[recipe.format].make_portable(path)
        model = load(path, contract=replace(job.contract, recipe=recipe.name))
        found = quantized.parity or job.parity(model)
        operators = FORMATS[recipe.format].operators(path, job.contract)
        reason = refusal(
            path.name, found, recipe, job.options.max_drop,
            operators=operators, spec=job.contract.input, mixed=bool(quantized.excluded),
        )  # fmt: skip
        made = _contract(job, recipe, model, quantized, found, operators)
        golden = np.array(made.golden.embeddings if made.golden else (), np.float32)
        if reason is None and job.options.max_drop < ANYTHING and alike(golden):
            reason = f"{path.name}: its answers to the golden probes are all the same, so that they would prove nothing"
        contract = _stamp(path, recipe, made)
    except (EdgefaceError, OSError):
        raise
    except Exception as error:  # converters raise types of their own
        raise ModelError(f"{path.name}: cannot be made: {type(error).__name__}: {first_line(error)}") from error
    return ExportedFile(
        path=path,
        recipe=recipe,
        size_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        parity=found,
        contract=contract,
        float_operators=dict(sorted(operators["float"].items())),
        trials=quantized.trials,
        excluded=quantized.excluded,
        reason=reason,
    )


def _static_int8(job: _Job, recipe: Recipe, float_file: Path, path: Path) -> _Quantization:
    """Calibrates, chooses the calibrator where that is asked for, and excludes layers where int8 costs too much."""
    contract, scratch = job.contract, job.workspace / f"scratch.{recipe.format}"
    inputs = as_input(job.faces.calibration, contract.input)
    draft = calibrate(STATIC_FORMATS[recipe.format], float_file, inputs, job.workspace)
    if "finetuning" in contract.accuracy:  # its weights were moved so that they have the right means when rounded
        draft = replace(draft, shifts={})
    method, trials = job.options.calibrator, list[Trial]()
    if method == SEARCH:
        assert job.faces.selection is not None
        job.progress(f"choosing the calibrator of {path.name}")
        selection = job.faces.selection
        trials = try_methods(
            draft, contract, selection, job.source.embed(selection.faces), scratch, partial(paced, say=job.progress)
        )
        method = trials[0].method
    found = job.parity(load(draft.write(path, method), contract=contract))
    excluded = _excluded(job, recipe, draft, method, path, found, scratch)
    if not excluded:
        return _Quantization(method, tuple(trials), parity=found)
    draft.write(path, method, [item.layer for item in excluded])
    return _Quantization(method, tuple(trials), excluded)


def _excluded(
    job: _Job, recipe: Recipe, draft: Calibrated, method: str, path: Path, whole: Parity, scratch: Path
) -> tuple[ExcludedLayer, ...]:
    """The layers to exclude from a file, given its parity with all of them in int8; mostly none.

    Without them it is close to the source model and accurate, or, where that cannot be had, accurate.
    """

    def meets(min_cosine: float, file: Path) -> bool:
        found = job.parity(load(file, contract=job.contract))
        return found.meets(min_cosine=min_cosine, max_drop=job.options.max_drop)

    # What even the float file does not reach, no excluded layer can reach; unless it was fine-tuned for int8.
    tests = [
        partial(meets, least)
        for least in (job.options.min_cosine, -1.0)
        if not whole.meets(min_cosine=least, max_drop=job.options.max_drop)
        and (job.options.qat or meets(least, draft.source))
    ]
    if not tests or not is_int8(FORMATS[recipe.format].operators(path, job.contract), recipe, job.contract.input):
        return ()
    job.progress(f"searching which layers of {path.name} to exclude from quantization")
    faces = job.faces.calibration
    track = partial(paced, say=job.progress)
    alone = sensitivities(draft, method, job.contract, faces, job.source.embed(faces), scratch, track)
    found = (exclude_layers(draft, method, job.contract, alone, test, scratch, track) for test in tests)
    return next((layers for layers in found if layers is not None), ())


def _contract(
    job: _Job, recipe: Recipe, model: Model, quantized: _Quantization, found: Parity, operators: Operators
) -> Contract:
    """The contract of one file: what is known of the source model, how the file was made, and what it answers."""
    calibration = None
    if quantized.method is not None:
        faces = job.faces.calibration
        digest = hashlib.sha256(faces.tobytes()).hexdigest()
        calibration = {"faces": len(faces), "seed": job.options.seed, "sha256": digest, "method": quantized.method}
        calibration |= {"float_layers": [item.layer for item in quantized.excluded]}
    accuracy = job.contract.accuracy | {"verification": found.as_contract()}
    thresholds = dict[str, object]()
    if job.faces.thresholds is not None:
        embeddings = model.embed(job.faces.thresholds.faces)
        thresholds, accuracy["thresholds"] = job.faces.thresholds.thresholds(embeddings)
    # Of a model that was adapted from another, the other's thresholds, where none could be measured.
    carried = {rate: item for rate, item in job.contract.thresholds.items() if item and "from" in item}
    thresholds = {rate: thresholds.get(rate) or carried.get(rate) for rate in {**carried, **thresholds}}
    answers = model.embed(probe_images(job.contract.input.size))
    rows = tuple(tuple(round(float(value), 6) for value in row) for row in answers)
    return replace(
        job.contract,
        precision=recipe.precision,
        recipe=recipe.name,
        calibration=calibration,
        cost=job.source.cost(recipe),
        operators={kind: count.total() for kind, count in operators.items()},
        versions={package: importlib.metadata.version(package) for package in job.source.packages[recipe.format]},
        golden=Golden(probes=PROBES, embeddings=rows, min_cosine=recipe.min_golden),
        accuracy=accuracy,
        thresholds=thresholds,
    )


def _stamp(path: Path, recipe: Recipe, contract: Contract) -> Contract:
    """Writes the contract and the digest of all into the file, and reads them again."""
    FORMATS[recipe.format].write_contract(path, contract.to_json())
    seal(path)
    return read_contract(path)


def _timed(job: _Job, files: list[ExportedFile]) -> list[ExportedFile]:
    """The files with their processor time beside that of the fp32 file of their format."""
    done = []
    for kind in dict.fromkeys(file.format for file in files):
        same = [file for file in files if file.format == kind]
        fp32 = next(recipe for recipe in RECIPES if (recipe.format, recipe.precision) == (kind, "fp32"))
        sources = [job.source.float_file(fp32, job.workspace), *(file.path for file in same)]
        reference, *times = compare_speed([load(path, contract=job.contract) for path in sources])
        done += [replace(file, cpu_ms=ms, latency_ratio=ms / reference) for file, ms in zip(same, times, strict=True)]
    return done


def _recipes(source: SourceModel, options: ExportOptions) -> tuple[ExportOptions, list[Recipe]]:
    """The options with the formats and precisions to make, and their recipes."""
    formats = tuple(options.formats or source.formats)
    precisions = tuple(options.precisions or (("int8",) if options.qat else source.default_precisions))
    why = f" ({source.limits})" if source.limits else ""
    for what, asked, possible in (("format", formats, source.formats), ("precision", precisions, source.precisions)):
        others = [item for item in asked if item not in possible]
        if others:
            raise UsageError(f"{source.name}: {what} {', '.join(others)}: it goes to {', '.join(possible)} alone{why}")
    recipes = [recipe for recipe in RECIPES if recipe.format in formats and recipe.precision in precisions]
    if source.given:
        recipes = [replace(recipe, name=source.given, prelu="", min_int8=0) for recipe in recipes]
    return replace(options, formats=formats, precisions=precisions), recipes


def _check_faces(faces: ExportFaces, size: int, progress: Progress, calibrated: bool) -> None:
    """Refuses arrays that are no faces, and says so where faces look like BGR."""
    for what, images in (("calibration", faces.calibration), ("evaluation", faces.evaluation.faces)):
        if not len(images) and what == "calibration" and not calibrated:
            continue
        if not len(images) or images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
            raise UsageError(f"{what} faces are {images.dtype} {images.shape}, not uint8 (N, {size}, {size}, 3), N ≥ 1")
        if images[..., 2].mean() > images[..., 0].mean() + _BLUE:
            progress(f"{what} faces have more blue than red: are they BGR? RGB is what is asked for")


def _keep_source(source: SourceModel, folder: Path, recipes: list[Recipe]) -> None:
    targets = {(folder / f"{source.contract.name}.{recipe.suffix}").resolve() for recipe in recipes}
    if source.path is not None and source.path.resolve() in targets:
        raise UsageError(f"{source.path}: would be written over; name another folder, or another name in the contract")
    parent = source.contract.parent_sha256
    is_own = source.run is not None and source.run.resolve() == folder.resolve()
    if parent is None or is_own or not folder.is_dir():
        return
    # Not the targets alone: files of one name share a card.
    for path in sorted(folder.iterdir()):
        if path.suffix[1:] in FORMATS and path.name.startswith(f"{source.contract.name}."):
            with contextlib.suppress(ContractError, ModelError):  # nothing that tells whose it is
                there = read_contract(path)
                if there.name == source.contract.name and there.parent_sha256 not in (None, parent):
                    raise UsageError(f"{path}: was made of another model of this name; name another folder with -o")


def _card_name(source: SourceModel) -> str:
    # ncnn files lie beside the ONNX file that they are made of, whose card stays.
    middle = ".ncnn" if source.formats == ("ncnn",) else ""
    return f"{source.contract.name}{middle}.card.md"


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder inside ``folder`` that is removed at the end, as is ``folder`` if it is new and stayed empty."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder, "export") as workspace:
            before, tempfile.tempdir = tempfile.tempdir, workspace  # of converters too, so that nothing outlives a kill
            try:
                yield Path(workspace)
            finally:
                tempfile.tempdir = before
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to ({error.strerror or error})") from error
    finally:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
