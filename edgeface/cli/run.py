"""``edgeface run``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from edgeface.cli.console import Idle, Json, note, opened, print_json, refuse_idle, say
from edgeface.cli.enroll import Detector, GalleryModel, MinFace, Threads
from edgeface.cli.identify import ONE_LIMIT, Enrolled, Fpir, Limit, note_doubts
from edgeface_runtime import UsageError

Form: TypeAlias = Literal["text", "json", "lines", "csv"]

_IDLE: Idle = (
    (
        "folder",
        True,
        "is for --camera and --video; --folder answers photo by photo and gives no events",
        ("snapshots", "exec", "webhook", "mqtt", "mqtt_password_file", "mqtt_id", "every", "patience", "seconds"),
    ),
    ("camera", True, "is for --folder; --json-lines tells the events of a camera or a video", ("csv",)),
    ("video", True, "is for --folder; --json-lines tells the events of a camera or a video", ("csv",)),
    ("mqtt", False, "needs --mqtt, the broker's address", ("mqtt_password_file", "mqtt_id")),
)

if TYPE_CHECKING:
    from edgeface.live import PhotoResult, Report, Row, Stop


def run(
    context: typer.Context,
    gallery: Enrolled,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="Camera: its number (0 for the first), /dev/video0, rtsp://…, http://… (MJPEG), picamera2, "
            "picamera2:1280x720, or @FILE that holds one of them. May repeat.",
        ),
    ] = None,
    video: Annotated[str | None, typer.Option(help="Video file.")] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of photos, at whatever depth, each identified by itself.")
    ] = None,
    model: GalleryModel = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw to this .mp4 file, or to JPEG files in this folder.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Draw to a window; q closes it.")] = False,
    snapshots: Annotated[
        Path | None, typer.Option(help="Write the best picture of each visit to this folder; none is kept without it.")
    ] = None,
    exec: Annotated[
        str | None, typer.Option("--exec", help="Run this command for each event: its JSON line on stdin.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(help="Post each event as JSON to this http:// or https:// URL.")
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(help="Publish events and Home Assistant's entities: mqtt://user@host:1883, or mqtts:// for TLS."),
    ] = None,
    mqtt_password_file: Annotated[Path | None, typer.Option(help="File with the broker's password.")] = None,
    mqtt_id: Annotated[str, typer.Option(help="Name of this device in topics, unique at the broker.")] = "edgeface",
    every: Annotated[int, typer.Option(min=1, help="Run detection every N frames, at the latest after 0.2 s.")] = 6,
    patience: Annotated[float, typer.Option(min=0, help="Seconds without a detection until somebody has left.")] = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after this many seconds of the source.")] = None,
    turn: Annotated[
        int, typer.Option(help="Rotate each frame clockwise by 0, 90, 180 or 270 degrees: for a camera on its side.")
    ] = 0,
    far: Fpir = 0.01,
    threshold: Limit = None,
    detector: Detector = None,
    min_face: MinFace = None,
    threads: Threads = 1,
    json: Json = False,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="Print each event, or each face of a photo, as one line of JSON.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="With --folder: print a line of CSV for each face.")] = False,
) -> None:
    """Watch cameras, a video or a folder, and say who comes and goes.

    A camera is never waited for: while a frame is looked at, those that come are skipped; one that fails is
    opened again. Ctrl-C and SIGTERM end it; what was written until then is whole. Nothing is kept but what
    --output and --snapshots ask for. Cameras and videos need the extra `camera`, --mqtt the extra `mqtt`.

    \b
    Examples:
      edgeface run --video door.mp4 --gallery people.gallery --output named.mp4
      edgeface run --camera 0 -g people.gallery --seconds 60 --json-lines
      edgeface run --camera rtsp://door.local/live --camera 0 -g people.gallery
      edgeface run --camera @/etc/edgeface/door -g people.gallery --mqtt mqtt://homeassistant.local
      edgeface run --camera 0 -g people.gallery --turn 90
      edgeface run --folder photos/ -g people.gallery -o drawn/ --csv
    """
    from edgeface.live import Stop

    sources = _sources(camera, video, folder)
    if json + json_lines + csv > 1:
        raise UsageError("--json, --json-lines and --csv exclude each other")
    refuse_idle(context, (*_IDLE, *ONE_LIMIT))
    form: Form = "json" if json else "lines" if json_lines else "csv" if csv else "text"
    # Heeded from here on: a service may be stopped before its model is open.
    with _stdout(), Stop() as stop, contextlib.ExitStack() as stack:
        from edgeface_runtime import Gallery, GalleryError

        if not gallery.exists():
            raise GalleryError(f"{gallery}: no such gallery; `edgeface enroll` makes one")
        recognizer = opened(model, detector, threads, min_face)
        people = stack.enter_context(Gallery.open(gallery, recognizer))
        note_doubts(recognizer, far, threshold, len(people))
        if folder:
            from edgeface.live import identify_folder
            from edgeface.photo_folders import every_photo

            photos = _Photos(form)
            looked, unread, took = identify_folder(
                folder,
                every_photo([folder], output),
                recognizer,
                people,
                far=far,
                threshold=threshold,
                output=output,
                show=show,
                turn=turn,
                stop=stop,
                tell=photos.tell,
            )
            photos.end(str(folder), output, looked, unread, took, stop)
            if unread:
                raise typer.Exit(1)
        else:
            from edgeface.live import run as watch_sources
            from edgeface_runtime import TrackingConfig

            tells = [_teller(form, len(sources) > 1)]
            tells += _receivers(stack, sources, exec, webhook, mqtt, mqtt_password_file, mqtt_id)

            def tell(row: Row) -> None:
                for one in tells:
                    one(row)

            done = watch_sources(
                sources,
                recognizer,
                people,
                far=far,
                threshold=threshold,
                config=TrackingConfig(every=every, patience=patience),
                output=output,
                show=show,
                snapshots=snapshots,
                seconds=seconds,
                turn=turn,
                stop=stop,
                tell=tell,
            )
            _summary(form, sources, output, done)
    if stop.signal == SIGINT:
        raise typer.Exit(130)


@contextlib.contextmanager
def _stdout() -> Iterator[None]:
    """Says in one line where stdout takes no more."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        note("the reader of the output is gone: stopped")
    except OSError as error:
        if error.filename is not None:
            raise
        raise UsageError(f"stdout: {error.strerror or error}") from error


def _sources(camera: list[str] | None, video: str | None, folder: Path | None) -> list[int | str | Path]:
    from edgeface_runtime.streams.captures import is_address

    if sum(bool(source) for source in (camera, video, folder)) != 1:
        raise UsageError("name one of --camera, --video and --folder")
    if video and not is_address(video) and Path(video).is_dir():
        raise UsageError(f"{video}: is a folder; name it with --folder")
    if folder and folder.is_file():
        raise UsageError(f"{folder}: is a file; name it with --video")
    return [_camera(one) for one in camera] if camera else [video or folder or ""]


def _camera(text: str) -> int | str:
    """A camera as it was named, or as the file says that was named."""
    import reprlib

    from edgeface_runtime.checks import read_text
    from edgeface_runtime.streams.captures import is_camera

    if text.startswith("@"):
        try:
            text = read_text(Path(text[1:]), 10_000).strip()
        except OSError as error:
            raise UsageError(f"--camera {text}: cannot be read ({error.strerror or error})") from error
    camera: int | str = int(text) if text.isdecimal() and len(text) < 10 else text
    if "\0" in text or not is_camera(camera):
        text = reprlib.repr(text) if len(text) > 100 else text
        raise UsageError(f"--camera {text}: name a number, /dev/video0, rtsp://…, http://… or picamera2")
    return camera


def _receivers(
    stack: contextlib.ExitStack,
    sources: list[int | str | Path],
    command: str | None,
    webhook: str | None,
    mqtt: str | None,
    mqtt_password_file: Path | None,
    mqtt_id: str,
) -> list[Callable[[Row], None]]:
    """Where events go besides stdout."""
    from edgeface import sinks
    from edgeface.live import camera_names

    found = []
    if command is not None:
        found.append(stack.enter_context(sinks.behind(sinks.command(command), note)))
    if webhook is not None:
        found.append(stack.enter_context(sinks.behind(sinks.webhook(webhook), note)))
    if mqtt is not None:
        from edgeface.mqtt import publisher

        names = camera_names(sources)
        found.append(stack.enter_context(publisher(mqtt, mqtt_id, names, mqtt_password_file, note)))
    return found


def _teller(form: Form, is_one_of_many: bool) -> Callable[[Row], None]:
    from edgeface.sinks import line

    def tell(row: Row) -> None:
        if form == "lines":
            typer.echo(line(row))
        else:
            (note if form == "json" else say)(_line(row, is_one_of_many))

    return tell


def _summary(form: Form, sources: list[int | str | Path], output: Path | None, done: Report) -> None:
    from dataclasses import asdict

    from edgeface_runtime.streams.captures import without_secrets

    source = ", ".join(without_secrets(source) for source in sources)
    if form == "json":
        print_json({"schema": 1, "source": source, "output": output and str(output), **asdict(done)})
        return
    frames = "1 frame" if done.frames == 1 else f"{done.frames} frames"
    rate = f"{frames} in {done.seconds:.1f} s, {done.fps:.1f} a second; {done.skipped} skipped"
    (note if form == "lines" else say)(f"{rate}; {output}" if output else rate)


class _Photos:
    """Tells what each photo of a folder shows; in lines and CSV as ``identify`` does."""

    def __init__(self, form: Form) -> None:
        from edgeface.batch import csv_writer, json_writer
        from edgeface.live import KEPT

        self.form, self.told = form, 0
        self.kept: deque[PhotoResult] = deque(maxlen=KEPT)
        writers = {"csv": csv_writer, "lines": json_writer}
        self.write = writers[form](sys.stdout) if form in writers else None

    def tell(self, photo: PhotoResult) -> None:
        """One photo's answer."""
        from edgeface.batch import NO_FACE, FaceRow

        self.told += 1
        if photo.error and self.form in ("json", "text"):
            note(photo.error)
        if self.form == "json":
            self.kept.append(photo)
        elif self.write is not None:
            for number, face in enumerate(photo.faces, 1):
                self.write(FaceRow(photo.photo, number, face))
            if not photo.faces:
                self.write(FaceRow(photo.photo, None, None, photo.error or NO_FACE))
        elif not photo.error:
            names = [f"{face.name} {face.score:.2f}" if face.name else "unknown" for face in photo.faces]
            say(f"{photo.photo}: {', '.join(names) or NO_FACE}")

    def end(self, source: str, output: Path | None, looked: int, unread: int, took: float, stop: Stop) -> None:
        """The end of the folder."""
        from dataclasses import asdict

        if self.form == "json":
            figures = {"frames": looked, "skipped": unread, "seconds": took, "fps": looked / took}
            kept = {"photos": [asdict(photo) for photo in self.kept], "photos_left_out": self.told - len(self.kept)}
            document = {"schema": 1, "source": source, "output": output and str(output), **figures, **kept}
            print_json({**document, "interrupted": stop.signal is not None})
            return
        photos = "1 photo" if looked == 1 else f"{looked} photos"
        rate = f"{photos} in {took:.1f} s, {looked / took:.1f} a second; {unread} skipped"
        (note if self.form != "text" else say)(f"{rate}; {output}" if output else rate)


def _line(row: Row, names_camera: bool) -> str:
    where = f"{row.camera}: " if names_camera or row.track is None else ""
    if row.track is None:
        return f"{where}{row.event}"
    nameless = {"appeared": "somebody", "named": "in doubt"}.get(row.event, "unknown")
    who = row.name or nameless
    return f"{where}{row.seconds:.1f} s: {row.track} {row.event}: {who}"
