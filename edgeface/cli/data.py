"""``edgeface data``: photos in, aligned and labelled faces out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgeface.cli.console import ERR, Json, note, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Photos in, aligned and labelled faces out.")

Prepared = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `data prepare` made.")]


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="att, lfw or olivetti.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    json: Json = False,
) -> None:
    """Lay a public set of faces into a folder, one folder per identity.

    att comes with the data extra; lfw (about 200 MB) and olivetti are downloaded.

    \b
    Examples:
      edgeface data fetch att photos/att
      edgeface data fetch lfw photos/lfw
    """
    from edgeface.data.fetch import fetch as fetch_set

    folder = fetch_set(name, dst)
    if json:
        print_json({"schema": 1, "name": name, "path": str(folder)})
    else:
        typer.echo(folder)


@app.command()
def prepare(
    src: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder of photos: one folder per identity, or LFW names.")
    ],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make, or one whose preparation was stopped.")],
    labels: Annotated[Path | None, typer.Option(help="CSV with path and identity, or CelebA's identity file.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Folder levels that name the identity.")] = 1,
    faces: Annotated[str, typer.Option(help="largest: the largest central face of a photo; all.")] = "largest",
    detector: Annotated[str, typer.Option(help="fast, as on the device; mtcnn; or a detector's file.")] = "fast",
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the crops, pixels.")] = 112,
    drop: Annotated[str, typer.Option(help="Leave out more: blur, small, pose, score, duplicates; blur=30.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0: one for each core.")] = 0,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler, tcp://host:8786, in place of workers.")] = None,
    licence: Annotated[str, typer.Option(help="What the photos may be used for; goes into the card.")] = "unknown",
    json: Json = False,
) -> None:
    """Find, align and describe the faces of a folder of photos.

    Writes DST/faces, faces.csv, rejected.csv and dataset.json. Stopped at any moment, the same
    command goes on where it was and ends with the same files.

    \b
    Examples:
      edgeface data prepare photos/pins prepared/pins
      edgeface data prepare photos/celeba prepared/celeba --labels identity_CelebA.txt
      edgeface data prepare photos/pins prepared/clean --drop blur,small=40,duplicates
    """
    from edgeface.data.crops import CropSettings
    from edgeface.data.finish import parse_drops
    from edgeface.data.prepare import Options
    from edgeface.data.prepare import prepare as prepare_folder

    options = Options(
        crops=CropSettings(detector=detector, size=size, faces=faces),
        drop=parse_drops(drop),
        labels=labels,
        depth=depth,
        licence=licence,
    )
    with _progress("photos") as progress:
        card = prepare_folder(
            src, dst, options, processes=workers or os.cpu_count() or 1, scheduler=scheduler, progress=progress
        )
    if json:
        print_json(card)
        return
    print_table(str(dst), ("what", "number"), [(key.replace("_", " "), value) for key, value in card["counts"].items()])
    for reason, count in card["rejected"].items():
        note(f"left out, {reason}: {count}; see {dst / 'rejected.csv'}")


@app.command()
def split(
    folder: Prepared,
    method: Annotated[
        str,
        typer.Option("--method", "--protocol", help="photos or paper, identities, or k photos of each to train."),
    ] = "photos",
    test: Annotated[float, typer.Option(help="Part of all faces that tests, 0 to 1.")] = 0.1,
    val: Annotated[float, typer.Option(help="Part of the other faces that validates, 0 to 1.")] = 0.12,
    k: Annotated[int, typer.Option("-k", help="Photos of each identity that train, with --method k.")] = 10,
    seed: Annotated[int, typer.Option(help="Another seed draws other photos.")] = 0,
    json: Json = False,
) -> None:
    """Say which faces train, which validate and which test; copies of a photo stay together.

    \b
    Examples:
      edgeface data split prepared/pins
      edgeface data split prepared/pins --protocol paper
      edgeface data split prepared/pins --method identities --test 0.2
      edgeface data split prepared/pins --method k -k 5
    """
    from edgeface.data.split import Split
    from edgeface.data.split import split as split_folder

    entry = split_folder(folder, Split(method=method, test=test, val=val, k=k, seed=seed))
    if json:
        print_json({"schema": 1, **entry})
        return
    rows = [(part, entry["faces"][part], entry["identities"][part]) for part in entry["faces"]]
    print_table(str(folder), ("part", "faces", "identities"), rows)


@app.command()
def inspect(
    folder: Prepared,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file; default DIR/inspect.html.")] = None,
    model: Annotated[Path | None, typer.Option(help="Recogniser that looks for wrong names.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model's engine.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws the faces of the contact sheet.")] = 0,
    json: Json = False,
) -> None:
    """Make one HTML page that shows what a prepared folder holds and what looks wrong in it.

    \b
    Examples:
      edgeface data inspect prepared/pins
      edgeface data inspect prepared/pins --model mobilefacenet.int8.onnx --json
    """
    from edgeface.data.inspect import inspect as inspect_folder
    from edgeface.evaluation.embedder import open_embedder

    page = output or folder / "inspect.html"
    embedder = open_embedder(model, threads=threads) if model else None
    summary = inspect_folder(
        folder,
        page,
        embed=embedder.embed if embedder else None,
        size=embedder.contract.input.size if embedder else 112,
        seed=seed,
    )
    if json:
        print_json({**summary, "page": str(page)})
    else:
        typer.echo(page)


@contextlib.contextmanager
def _progress(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Reports done and total: a bar with rate and time left, or a line each ten seconds where stderr is no terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        task = bar.add_task("", rate="")
        began: list[tuple[float, int]] = []
        said = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            began.append((now, done)) if not began else None
            rate = (done - began[0][1]) / max(now - began[0][0], 1e-3)
            bar.update(task, completed=done, total=total, rate=f"{rate:.1f} {unit}/s")
            if not ERR.is_terminal and rate and (now - said > 10 or done == total):
                said = now
                note(f"{done} of {total} {unit}, {rate:.1f}/s, {(total - done) / rate:.0f} s left")

        yield report
