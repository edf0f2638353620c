"""``edgeface export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import Json, TerminalReporter, note, print_json, print_table
from edgeface_export.options import ExportOptions

if TYPE_CHECKING:
    from edgeface_export.result import ExportResult

SOURCE = "Run folder or checkpoint; with --contract a third-party model file; for ncnn an exported fp32 .onnx."
OUTPUT = "Folder to write into.  [default: the run, else the model's folder]"
PRECISION = (
    "fp32, fp16, int8, int8-dynamic or int8-weights; repeatable.  [default: fp32 and int8; int8 with --qat; fp32 of a "
    "third-party TFLite file; fp16 for ncnn]"
)
FORMATS = (
    "onnx, tflite (repeatable) or ncnn (not combinable).  [default: onnx and tflite; a third-party model's own format]"
)
QAT = (
    "Quantization-aware fine-tuning before the export, self-distilled from the fp32 model; needs no labels. int8 "
    "precisions only."
)
CALIBRATOR = (
    "How int8 activation ranges are taken: mse, minmax, moving-average, percentile or entropy; auto tries all, which "
    "takes longer."
)
MIN_COSINE = (
    "Mean cosine to the source model, -1 to 1, below which sensitive layers are excluded from int8 quantization."
)
CONTRACT = (
    "Contract of a third-party model: TOML or JSON file, a name (insightface, sface …), or auto: measured on --data."
)
DEFAULTS = ExportOptions


def export(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help=SOURCE)],
    data: Annotated[Path, typer.Option("--data", "-d", help="Photos: train calibrates int8, test evaluates.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help=OUTPUT)] = None,
    precision: Annotated[list[str] | None, typer.Option(help=PRECISION)] = None,
    int8: Annotated[bool, typer.Option("--int8", help="The same as --precision int8.")] = False,
    formats: Annotated[list[str] | None, typer.Option("--format", help=FORMATS)] = None,
    calibration_faces: Annotated[
        int, typer.Option("--calibration-faces", "--faces", help="Training faces to calibrate int8 with.")
    ] = DEFAULTS.calibration_faces,
    qat: Annotated[bool, typer.Option("--qat", help=QAT)] = DEFAULTS.qat,
    qat_steps: Annotated[int, typer.Option(help="Steps of --qat, of 16 faces each.")] = DEFAULTS.qat_steps,
    converter: Annotated[
        str, typer.Option(help="What writes TFLite: litert, or keras (extra tensorflow).")
    ] = DEFAULTS.converter,
    calibrator: Annotated[str, typer.Option(help=CALIBRATOR)] = DEFAULTS.calibrator,
    max_drop: Annotated[
        float, typer.Option(help="Verification accuracy that a file may lose, in percentage points.")
    ] = DEFAULTS.max_drop,
    min_cosine: Annotated[float, typer.Option(help=MIN_COSINE)] = DEFAULTS.min_cosine,
    pairs: Annotated[Path | None, typer.Option(help="Pairs of test photos to evaluate on, as LFW lists them.")] = None,
    threshold_data: Annotated[
        Path | None, typer.Option(help="Photos of people the model was not trained on, to set thresholds with.")
    ] = None,
    contract: Annotated[Path | None, typer.Option(metavar="FILE|NAME|auto", help=CONTRACT)] = None,
    json: Json = False,
) -> None:
    """Export a trained model as checked ONNX and TFLite files, with a model card.

    Each file carries its contract, and is compared with the source model on the test photos. Layers too
    sensitive to int8 stay in float (mixed precision). When a file still loses more than --max-drop,
    nothing is written and the exit code is 1. Thresholds for false match rates of 1e-2 to 1e-7,
    as far as the pairs suffice, come from --threshold-data, else from people without training photos.

    A third-party .onnx is quantized, checked and stamped as its --contract says, to ONNX only; a
    .tflite gets its contract, with which every command takes it. The contract is a file, the name of
    a public net, or auto: the colour order and normalization with which the model tells the people of
    the photos apart best; a given one is doubted, or refused, where another is clearly better.
    --format ncnn converts an exported fp32 .onnx and compares the result with it.

    \b
    Examples:
      edgeface export runs/train --data photos/
      edgeface export runs/train --data photos/ --int8 --format tflite --calibrator auto -o models/
      edgeface export runs/train --data photos/ --int8 --qat -o models/
      edgeface export runs/train -d photos/ --precision fp16 --threshold-data others/
      edgeface export model.onnx --contract auto -d photos/ --int8 -o models/
      edgeface export models/net.fp32.onnx --format ncnn -d photos/
    """
    options = ExportOptions(
        formats=formats,
        precisions=[*(precision or []), *(["int8"] if int8 else [])] or None,
        calibrator=calibrator,
        calibration_faces=calibration_faces,
        min_cosine=min_cosine,
        max_drop=max_drop,
        converter=converter,
        qat=qat,
        qat_steps=qat_steps,
    )
    from edgeface.deploy import ExportPhotos, export_model
    from edgeface_runtime.model import tried_model

    if source.is_file():
        tried_model(source)
    result = export_model(
        source,
        ExportPhotos(data=data, threshold_data=threshold_data, pairs=pairs),
        output or (source if source.is_dir() else source.parent),
        options,
        contract=contract,
        reporter=TerminalReporter(),
    )
    if json:
        print_json(result.as_json())
    else:
        _show(result, source)
    if not result.passed:
        note(f"edgeface: gate failed, nothing written: {result.reason}")
        raise typer.Exit(1)


def _show(result: ExportResult, source: Path) -> None:
    columns = ("file", "bytes", "cosine", "worst 1%", "drop, points", "int8/float", "÷ fp32")
    rows = [
        (
            file.path.name.removeprefix(f"{file.contract.name}."),
            f"{file.size_bytes:,}",
            f"{file.cosine_mean:.5f}",
            f"{file.cosine_p1:.5f}",
            f"{file.drop.points:+.3f} ±{(file.drop.high - file.drop.low) / 2:.3f}",
            f"{file.operators['int8']}/{file.operators['float']}",
            f"{file.latency_ratio:.2f}",
        )
        for file in result.files
    ]
    title = f"{source} exported, and compared with it on {result.files[0].drop.pairs} evaluation pairs"
    print_table(f"{title}; int8 and float operators, processor time divided by fp32's", columns, rows)
    for file in result.files:
        if file.trials:
            tried = ", ".join(f"{trial.method} {trial.cosine_mean:.5f}" for trial in file.trials)
            note(f"{file.path.name}: calibrators, the taken one first, with their mean cosines: {tried}")
        for excluded in file.excluded:
            note(
                f"{file.path.name}: {excluded.layer} is excluded from quantization: it alone in int8 gives a cosine of "
                f"{excluded.cosine_alone:.5f}; {excluded.size_bytes:+,} bytes, {excluded.latency_ratio:.2f} of the time"
            )
    for line in (*result.advice, *(result.choice if result.passed else ())):
        note(line)
    if result.passed:
        note(f"model card: {result.card}")
