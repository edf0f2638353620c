"""From an fp32 ONNX file and photos to checked ncnn files: who judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeface.exporting import Photos
from edgeface_export.ncnn_file import NcnnExport, export_ncnn
from edgeface_runtime import UsageError, read_contract


def export_to_ncnn(
    source: Path,
    photos: Photos,
    folder: Path,
    *,
    precisions: Sequence[str],
    max_drop: float,
    progress: Callable[[str], None],
) -> NcnnExport:
    """Exports an fp32 ONNX file that carries a contract; the file itself is the parent.

    Args:
        source: an ``.onnx`` that ``export`` wrote.
        photos: what judges and sets thresholds.
        folder: where the files go.
        precisions, max_drop, progress: as in ``edgeface_export.ncnn_file.export_ncnn``.

    Raises:
        UsageError: another kind of source, no pnnx, no photos, or none held out.
        ModelError: the file cannot be read or converted.
    """
    if source.suffix != ".onnx":
        raise UsageError(f"{source}: ncnn files are made of fp32 ONNX files; export one first, then name it")
    options = photos.options(read_contract(source).input.size)
    return export_ncnn(
        source,
        folder,
        held_out=options["held_out"],
        strangers=options["strangers"],
        precisions=precisions,
        max_drop=max_drop,
        progress=progress,
    )
