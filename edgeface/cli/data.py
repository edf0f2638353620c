"""``edgeface data``: photos in, aligned and labelled faces out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from edgeface.cli.console import ERR, Json, note, print_json, print_table
from edgeface.progress import Progress

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Photos in, aligned and labelled faces out.")

METHODS = (
    "photos or paper (every identity in all splits), identities (each in one split alone), or k (k training photos "
    "per identity, the others test)."
)

_EMPTY = {
    "train": "there is nothing to learn from",
    "val": "training cannot choose its best epoch and keeps the last",
    "test": "nothing is left to evaluate or export on",
}
"""What follows from a part without faces."""

Prepared = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `data prepare` made.")]


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="att, lfw or olivetti.")],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    json: Json = False,
) -> None:
    """Fetch a public face dataset into a folder, one folder per identity.

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
        Path, typer.Argument(metavar="SRC", help="Folder of photos: one folder per identity, or LFW's flat file names.")
    ],
    dst: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make, or one to continue.")],
    labels: Annotated[Path | None, typer.Option(help="CSV with path and identity, or CelebA's identity file.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Number of folder levels that name the identity.")] = 1,
    faces: Annotated[
        str, typer.Option(help="Faces to take of a photo: largest (and most central), or all.")
    ] = "largest",
    detector: Annotated[
        str, typer.Option(help="Detector: yunet (as on devices), blazeface, mtcnn, or a YuNet file.")
    ] = "yunet",
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the crops, pixels.")] = 112,
    drop: Annotated[
        str,
        typer.Option(
            help="Also leave out: blur, small, pose, score, duplicates, comma-separated; blur=60 sets a limit."
        ),
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0: one per core.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler, tcp://host:8786, instead of --workers.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the photos; goes into the data card.")] = "unknown",
    json: Json = False,
) -> None:
    """Detect, align and describe the faces of a folder of photos.

    Writes DST/faces, faces.csv, rejected.csv and dataset.json. After a stop at any moment the same
    command continues, and ends with the same files.

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
    with _progress() as progress:
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
        typer.Option("--method", "--protocol", help=METHODS),
    ] = "photos",
    test: Annotated[float, typer.Option(help="Test fraction, 0 to 1.")] = 0.1,
    val: Annotated[float, typer.Option(help="Validation fraction of the remainder, 0 to 1.")] = 0.12,
    k: Annotated[int, typer.Option("-k", help="Training photos per identity, with --method k.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the random split.")] = 0,
    json: Json = False,
) -> None:
    """Assign each face to the training, validation or test split; copies of a photo stay in one.

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
    for part, meaning in _EMPTY.items():
        if not entry["faces"][part]:
            note(f"no face is in {part}: {meaning}")
    if json:
        print_json({"schema": 1, **entry})
        return
    rows = [(part, entry["faces"][part], entry["identities"][part]) for part in entry["faces"]]
    print_table(str(folder), ("part", "faces", "identities"), rows)


@app.command()
def inspect(
    folder: Prepared,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file; default DIR/inspect.html.")] = None,
    model: Annotated[Path | None, typer.Option(help="Recognition model that looks for mislabelled faces.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model's engine.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws the faces of the contact sheet.")] = 0,
    json: Json = False,
) -> None:
    """Write one HTML page with statistics of a prepared folder and the faces that look wrong.

    \b
    Examples:
      edgeface data inspect prepared/pins
      edgeface data inspect prepared/pins --model mobilefacenet.int8.onnx --json
    """
    from edgeface.data.audit import inspect as inspect_folder
    from edgeface.evaluation.opening import open_embedder
    from edgeface_runtime.model import tried_model

    page = output or folder / "inspect.html"
    embedder = open_embedder(tried_model(model), threads=threads) if model else None
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
def _progress() -> Iterator[Progress]:
    """Reports done and total: a bar with rate and time left, or a line each ten seconds where stderr is no terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Bar(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        task = bar.add_task("", rate="")
        began: dict[str, tuple[float, int]] = {}
        said = time.monotonic()

        def report(done: int, total: int, what: str) -> None:
            nonlocal said
            now = time.monotonic()
            if what not in began:
                began[what] = now, done
                bar.reset(task)
            start, first = began[what]
            rate = (done - first) / max(now - start, 1e-3)
            bar.update(task, completed=done, total=total, rate=f"{rate:.1f} {what}/s")
            # The stages after the first are over at once where photos are few.
            if not ERR.is_terminal and rate and (now - said > 10 or (done == total and len(began) == 1)):
                said = now
                note(f"{done} of {total} {what}, {rate:.1f}/s, {(total - done) / rate:.0f} s left")

        yield report
