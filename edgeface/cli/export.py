"""``edgeface export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.console import Json, note, print_json, print_table
from edgeface.cli.reporter import TerminalReporter

if TYPE_CHECKING:
    from edgeface_export.build import Export

CALIBRATOR = (
    "How int8 ranges are taken: moving-average, minmax, percentile, entropy, mse; auto tries all, which takes longer."
)
PRECISION = "fp32, fp16, int8, int8-dynamic or int8-weights; may repeat.  [default: fp32 and int8]"


def export(
    source: Annotated[Path | None, typer.Argument(help="Run folder, checkpoint, or a model of other origin.")] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Photos to calibrate and compare on.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.  [default: the run]")] = None,
    precision: Annotated[list[str] | None, typer.Option(help=PRECISION)] = None,
    int8: Annotated[bool, typer.Option("--int8", help="The same as --precision int8.")] = False,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="onnx or tflite; may repeat. ncnn alone.")
    ] = None,
    faces: Annotated[int, typer.Option(help="Training faces to calibrate int8 with.")] = 100,
    qat: Annotated[bool, typer.Option("--qat", help="Fine-tune for int8 first; the net itself teaches.")] = False,
    qat_steps: Annotated[int, typer.Option(help="Steps of --qat, of 16 faces each.")] = 300,
    converter: Annotated[str, typer.Option(help="TFLite by litert, or by keras (extra tensorflow).")] = "litert",
    calibrator: Annotated[str, typer.Option(help=CALIBRATOR)] = "mse",
    max_drop: Annotated[float, typer.Option(help="Accuracy that a file may lose, in percentage points.")] = 0.15,
    min_cosine: Annotated[float, typer.Option(help="Mean cosine below which int8 keeps layers in float.")] = 0.995,
    pairs: Annotated[Path | None, typer.Option(help="Pairs of test photos to judge on, as LFW lists them.")] = None,
    threshold_data: Annotated[Path | None, typer.Option(help="Photos of people it was not trained on.")] = None,
    contract: Annotated[Path | None, typer.Option(help="TOML or JSON contract of a file of other origin.")] = None,
    detector: Annotated[str | None, typer.Option(help="Instead of a net: mtcnn or fast, into --output.")] = None,
    json: Json = False,
) -> None:
    """Write a trained net as checked ONNX and TFLite files, with a model card.

    Each file carries its contract, and is compared with the net itself on held-out photos. Layers whose
    int8 costs too much stay float. When a file still loses more than --max-drop, nothing is written and
    the exit code is 1. Thresholds for false-accept
    rates of 1e-2 to 1e-5 come from --threshold-data, else from people without training photos.

    An .onnx of other origin is quantized, checked and stamped as its --contract says, to ONNX only; a
    .tflite gets its contract, with which every command takes it.
    --format ncnn converts an exported fp32 .onnx, to fp16 unless told, and compares the result with it.

    \b
    Examples:
      edgeface export runs/train --data photos/
      edgeface export runs/train --data photos/ --int8 --format tflite --calibrator auto -o models/
      edgeface export runs/train --data photos/ --int8 --qat -o models/
      edgeface export runs/train -d photos/ --precision fp16 --threshold-data others/
      edgeface export model.onnx --contract contract.toml -d photos/ --int8 -o models/
      edgeface export models/net.fp32.onnx --format ncnn -d photos/
      edgeface export --detector mtcnn -o detectors/
    """
    from edgeface_runtime import UsageError

    if detector is not None:
        from edgeface_export.detectors import export_detector

        written = export_detector(detector, output or Path("detectors"))
        if json:
            print_json({"schema": 1, "files": [{"path": str(path)} for path in written]})
        for path in written if not json else ():
            typer.echo(path)
        return
    if source is None or data is None:
        raise UsageError("name a run or checkpoint and its photos: edgeface export RUN --data PHOTOS")
    if formats == ["ncnn"]:
        folder = output or source.parent
        _ncnn(
            source, {"data": data, "threshold_data": threshold_data, "pairs": pairs}, folder, precision, max_drop, json
        )
        return
    result = _export(
        source,
        contract,
        {"data": data, "calibration_faces": faces, "threshold_data": threshold_data, "pairs": pairs},
        output or (source if source.is_dir() else source.parent),
        formats=formats or ([] if contract else ["onnx", "tflite"]),
        precisions=[*(precision or []), *(["int8"] if int8 else [])] or _precisions(qat, contract),
        trained_only={"qat_steps": qat_steps if qat else 0, "converter": converter},
        max_drop=max_drop,
        min_cosine=min_cosine,
        calibrator=calibrator,
        progress=note,
    )
    if json:
        print_json(result.as_json())
    else:
        _show(result, f"{source} against {'itself' if contract else 'PyTorch'}")
    if not result.passed:
        note(f"edgeface: gate failed, nothing written: {result.reason}")
        raise typer.Exit(1)


def _precisions(qat: bool, contract: Path | None) -> list[str]:
    if contract is not None:
        return []  # what there can be, the file itself decides
    return ["int8"] if qat else ["fp32", "int8"]


def _export(
    source: Path,
    contract: Path | None,
    photos: dict[str, Any],
    output: Path,
    trained_only: dict[str, Any],
    **options: Any,
) -> Export:
    from edgeface.exporting import Photos, export_checkpoint, export_foreign
    from edgeface_runtime import UsageError

    if contract is not None:
        if trained_only != {"qat_steps": 0, "converter": "litert"}:
            raise UsageError(f"{source}: --qat and --converter are for runs and checkpoints, not with --contract")
        return export_foreign(source, contract, Photos(**photos), output, **options)
    if source.suffix in (".onnx", ".tflite"):
        raise UsageError(f"{source}: not a whole checkpoint; a file of other origin needs --contract")
    return export_checkpoint(source, folder=output, reporter=TerminalReporter(), **photos, **trained_only, **options)


def _ncnn(
    source: Path, photos: dict[str, Any], folder: Path, precision: list[str] | None, max_drop: float, json: bool
) -> None:
    from edgeface.exporting import Photos
    from edgeface.ncnn_export import export_to_ncnn

    precisions = precision or ["fp16"]
    made = export_to_ncnn(source, Photos(**photos), folder, precisions=precisions, max_drop=max_drop, progress=note)
    if json:
        print_json(made.as_json())
    else:
        print_table(f"against {source.name}, {made.files[0].drop.pairs} held-out pairs", *made.table())
    if made.reason is not None:
        note(f"edgeface: gate failed, nothing written: {made.reason}")
        raise typer.Exit(1)


def _show(result: Export, title: str) -> None:
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
    said = "int8 and float operators, processor time divided by fp32's"
    print_table(f"{title}, {result.files[0].drop.pairs} held-out pairs; {said}", columns, rows)
    for file in result.files:
        if file.trials:
            tried = ", ".join(f"{trial.method} {trial.cosine_mean:.5f}" for trial in file.trials)
            note(f"{file.path.name}: calibrators, the taken one first, with their mean cosines: {tried}")
        for kept in file.kept:
            note(
                f"{file.path.name}: {kept.layer} stays float: it alone in int8 gives a cosine of "
                f"{kept.cosine_alone:.5f}; {kept.size_bytes:+,} bytes, {kept.latency_ratio:.2f} of the time"
            )
    for line in result.advice:
        note(line)
    if result.passed:
        note(f"model card: {result.card}")
