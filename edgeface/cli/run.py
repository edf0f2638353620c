"""``edgeface run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import Json, note, print_json
from edgeface.cli.enroll import Detector, Model, Threads
from edgeface.cli.identify import Enrolled, Fpir, Limit
from edgeface_runtime import UsageError
from edgeface_runtime.shipped_models import DEFAULT

if TYPE_CHECKING:
    from edgeface.live import Row


def run(
    gallery: Enrolled,
    camera: Annotated[int | None, typer.Option(min=0, help="Camera by its number, 0 for the first.")] = None,
    video: Annotated[Path | None, typer.Option(help="Video file.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of photos, each identified by itself.")] = None,
    model: Model = Path(DEFAULT),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw to this .mp4 file, or to JPEG files in this folder.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Draw to a window; q closes it.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Run detection every N frames.")] = 3,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after this many seconds of the source.")] = None,
    turn: Annotated[
        int, typer.Option(help="Rotate each frame clockwise by 0, 90, 180 or 270 degrees: for a camera on its side.")
    ] = 0,
    far: Fpir = 0.01,
    threshold: Limit = None,
    detector: Detector = "blazeface",
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Watch a camera, a video or a folder, and say who comes and goes.

    A camera is never waited for: while a frame is looked at, those that come are skipped. Ctrl-C ends it;
    what was written until then is whole. Nothing is kept but what --output asks for. Cameras and videos
    need the extra `camera`.

    \b
    Examples:
      edgeface run --video door.mp4 --gallery people.gallery --output named.mp4
      edgeface run --camera 0 -g people.gallery --seconds 60 --json
      edgeface run --camera 0 -g people.gallery --turn 90
      edgeface run --folder photos/ -g people.gallery -o drawn/
    """
    from dataclasses import asdict

    from edgeface.live import run as run_source
    from edgeface_runtime import FaceRecognizer, Gallery, GalleryError

    source = _source(camera, video, folder)
    if not gallery.exists():
        raise GalleryError(f"{gallery}: no such gallery; `edgeface enroll` makes one")
    recognizer = FaceRecognizer(model, detector, threads)
    with Gallery.open(gallery, recognizer) as people:
        done = run_source(
            source,
            recognizer,
            people,
            far=far,
            threshold=threshold,
            every=every,
            output=output,
            show=show,
            seconds=seconds,
            turn=turn,
            tell=lambda row: (note if json else typer.echo)(_line(row)),
            report=note,
        )
    if json:
        print_json({"schema": 1, "source": str(source), "output": output and str(output), **asdict(done)})
    else:
        frames = "1 frame" if done.frames == 1 else f"{done.frames} frames"
        rate = f"{frames} in {done.seconds:.1f} s, {done.fps:.1f} a second; {done.skipped} skipped"
        typer.echo(f"{rate}; {output}" if output else rate)
    if done.interrupted:
        raise typer.Exit(130)


def _source(camera: int | None, video: Path | None, folder: Path | None) -> int | Path:
    sources = [source for source in (camera, video, folder) if source is not None]
    if len(sources) != 1:
        raise UsageError("name one of --camera, --video and --folder")
    if video and video.is_dir():
        raise UsageError(f"{video}: is a folder; name it with --folder")
    if folder and folder.is_file():
        raise UsageError(f"{folder}: is a file; name it with --video")
    return sources[0]


def _line(row: Row) -> str:
    who = "somebody" if row.event == "appeared" else row.name or "unknown"
    return f"{row.photo or f'{row.seconds:.1f} s'}: {row.track} {row.event}: {who}"
