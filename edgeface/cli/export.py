"""``edgeface export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, note, print_json, print_table


def export(
    source: Annotated[Path | None, typer.Argument(help="Run folder or checkpoint (.safetensors).")] = None,
    data: Annotated[Path | None, typer.Option("--data", "-d", help="Photos to calibrate and compare on.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write.  [default: the run]")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Only the int8 files; else fp32 and int8.")] = False,
    formats: Annotated[list[str] | None, typer.Option("--format", help="onnx or tflite; may repeat.")] = None,
    faces: Annotated[int, typer.Option(help="Training faces to calibrate int8 with.")] = 100,
    max_drop: Annotated[float, typer.Option(help="Accuracy that a file may lose, in percentage points.")] = 0.15,
    detector: Annotated[str | None, typer.Option(help="Instead of a net: mtcnn or fast, into --output.")] = None,
    json: Json = False,
) -> None:
    """Write a trained net as checked ONNX and TFLite files.

    Each file carries its contract, and is compared with the net itself on held-out photos. When one
    loses more than --max-drop, nothing is written and the exit code is 1.

    \b
    Examples:
      edgeface export runs/train --data photos/
      edgeface export runs/train --data photos/ --int8 --format tflite -o models/
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
    from edgeface.exporting import export_checkpoint

    result = export_checkpoint(
        source,
        data,
        output or (source if source.is_dir() else source.parent),
        formats=formats or ["onnx", "tflite"],
        precisions=["int8"] if int8 else ["fp32", "int8"],
        calibration_faces=faces,
        max_drop=max_drop,
        progress=note,
    )
    if json:
        print_json(result.as_json())
    else:
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
        print_table(f"{source} against PyTorch, {result.files[0].drop.pairs} held-out pairs", columns, rows)
    if not result.passed:
        note(f"edgeface: gate failed, nothing written: {result.reason}")
        raise typer.Exit(1)
