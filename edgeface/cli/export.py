"""``edgeface export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeface.cli.console import Json, note, print_json, print_table

if TYPE_CHECKING:
    from edgeface_export.build import Export

PRECISION = "fp32, fp16, int8, int8-dynamic or int8-weights; may repeat.  [default: fp32 and int8]"


def export(
    source: Annotated[Path | None, typer.Argument(help="Run folder, checkpoint, or an .onnx of other origin.")] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Photos to calibrate and compare on.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.  [default: the run]")] = None,
    precision: Annotated[list[str] | None, typer.Option(help=PRECISION)] = None,
    int8: Annotated[bool, typer.Option("--int8", help="The same as --precision int8.")] = False,
    formats: Annotated[list[str] | None, typer.Option("--format", help="onnx or tflite; may repeat.")] = None,
    faces: Annotated[int, typer.Option(help="Training faces to calibrate int8 with.")] = 100,
    max_drop: Annotated[float, typer.Option(help="Accuracy that a file may lose, in percentage points.")] = 0.15,
    threshold_data: Annotated[Path | None, typer.Option(help="Photos of people it was not trained on.")] = None,
    contract: Annotated[Path | None, typer.Option(help="TOML or JSON contract of an .onnx of other origin.")] = None,
    detector: Annotated[str | None, typer.Option(help="Instead of a net: mtcnn or fast, into --output.")] = None,
    json: Json = False,
) -> None:
    """Write a trained net as checked ONNX and TFLite files, with a model card.

    Each file carries its contract, and is compared with the net itself on held-out photos. When one
    loses more than --max-drop, nothing is written and the exit code is 1. Thresholds for false-accept
    rates of 1e-2, 1e-3 and 1e-4 come from --threshold-data, else from people without training photos.

    An .onnx of other origin is quantized, checked and stamped as its --contract says, to ONNX only.

    \b
    Examples:
      edgeface export runs/train --data photos/
      edgeface export runs/train --data photos/ --int8 --format tflite -o models/
      edgeface export runs/train -d photos/ --precision fp16 --threshold-data others/
      edgeface export model.onnx --contract contract.toml -d photos/ --int8 -o models/
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
    result = _export(
        source,
        contract,
        {"data": data, "calibration_faces": faces, "threshold_data": threshold_data},
        output or (source if source.is_dir() else source.parent),
        formats=formats or (["onnx"] if contract else ["onnx", "tflite"]),
        precisions=[*(precision or []), *(["int8"] if int8 else [])] or ["fp32", "int8"],
        max_drop=max_drop,
        progress=note,
    )
    if json:
        print_json(result.as_json())
    else:
        _show(result, f"{source} against {'itself' if contract else 'PyTorch'}")
    if not result.passed:
        note(f"edgeface: gate failed, nothing written: {result.reason}")
        raise typer.Exit(1)


def _export(source: Path, contract: Path | None, photos: dict[str, Any], output: Path, **options: Any) -> Export:
    from edgeface.exporting import Photos, export_checkpoint, export_foreign
    from edgeface_runtime import UsageError

    if contract is not None:
        return export_foreign(source, contract, Photos(**photos), output, **options)
    if source.suffix in (".onnx", ".tflite"):
        raise UsageError(f"{source}: not a whole checkpoint; an .onnx of other origin needs --contract")
    return export_checkpoint(source, folder=output, **photos, **options)


def _show(result: Export, title: str) -> None:
    columns = ("file", "bytes", "cosine", "worst 1 %", "drop, points", "int8/float operators")
    rows = [
        (
            file.path.name,
            f"{file.size_bytes:,}",
            f"{file.cosine_mean:.5f}",
            f"{file.cosine_p1:.5f}",
            f"{file.drop.points:+.3f} ({file.drop.low:+.3f} to {file.drop.high:+.3f})",
            f"{file.operators['int8']}/{file.operators['float']}",
        )
        for file in result.files
    ]
    print_table(f"{title}, {result.files[0].drop.pairs} held-out pairs", columns, rows)
    if result.passed:
        note(f"model card: {result.card}")
