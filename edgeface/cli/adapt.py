"""``edgeface adapt``."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import Json, TerminalReporter, going_on, note, print_json, print_table
from edgeface.cli.train import DATA, LICENCE, SETTING
from edgeface_runtime import UsageError
from edgeface_runtime.checks import shown

MODEL = "What to adapt: a shipped model's name, a run folder or a .safetensors checkpoint.  [default: mobilefacenet]"
RESUME = "Continue in the output folder, with its photos, model and settings."


def adapt(
    data: Annotated[Path | None, typer.Argument(metavar="PEOPLE", help=DATA, show_default=False)] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("runs/adapt"),
    model: Annotated[str | None, typer.Option(metavar="MODEL", help=MODEL)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the photos.  [default: 10]")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SETTING)] = None,
    licence: Annotated[str | None, typer.Option(metavar="TEXT", help=LICENCE)] = None,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    json: Json = False,
) -> None:
    """Adapt a model that knows faces to your own people.

    Fine-tunes gently and keeps the mean of the old and the new weights, so that other people are told
    apart nearly as before. Then it shows what became better on the photos that were held out; exit code 1 when
    nothing did: enroll with the model as it is. Photos of one person in different light and years help
    most. To be recognized nobody needs this: edgeface enroll takes a photo each.

    \b
    Examples:
      edgeface adapt people/
      edgeface adapt prepared/ --model runs/mine -o runs/adapted
      edgeface adapt -o runs/adapted --resume
      edgeface adapt people/ --epochs 5 --set lr=1e-4 --licence "photos of employees, with consent"
    """
    from edgeface.adapting import TRAINING, adapt_config
    from edgeface.adapting import adapt as run
    from edgeface.data.dataset import licence_of_photos, open_faces
    from edgeface.progress import SILENT
    from edgeface.training.config import as_dict, by_key, load_config
    from edgeface.training.processes import is_main_process
    from edgeface.training.record import RECORD, Command, resumed

    reporter = TerminalReporter() if is_main_process() else SILENT
    asked, record = Command(data=data, init=model, licence=licence), None
    if resume:
        begin = f"edgeface adapt PEOPLE -o {output}"
        _, asked, record = resumed(output / TRAINING, asked, reporter, begin=begin)
    if asked.data is None:
        raise UsageError("Missing argument 'PEOPLE': a folder of <identity>/<photo>; edgeface adapt --help says more")
    model = asked.init or "mobilefacenet"
    config = adapt_config(model, setting or (), reporter=reporter, epochs=epochs)
    if record is not None:
        config = load_config(None, setting or (), base=by_key(as_dict(record.config)), epochs=epochs)
    faces = open_faces(asked.data, size=config.model.input_size, reporter=reporter)
    for file, reason in faces.rejected:
        reporter.say(f"left out {file}: {reason}")
    reporter.say(f"{len(faces.faces)} faces of {len(faces.identities)} people; {len(faces.rows('train'))} to train on")
    licence = licence_of_photos(asked.data, asked.licence)
    command = replace(asked, init=model).document()
    again = shlex.join(["edgeface", "adapt", "--resume", "-o", shown(output)])
    with going_on(output / TRAINING / RECORD, again, reporter):
        found = run(faces, output, model, config, reporter=reporter, licence=licence, resume=resume, command=command)
    if not is_main_process():
        return
    from edgeface.report.adapt_page import write_adapt_page

    reporter.say("a page of it, from the held-out photos")
    page = write_adapt_page(found, faces, model)
    if json:
        print_json(found.as_json() | {"report": str(page)})
    else:
        rows = [
            (f"FMR {rate}", *("too few photos" if each.value is None else each for each in (before, found.after[rate])))
            for rate, before in found.before.items()
        ]
        print_table(f"{found.photos} held-out photos: genuine pairs accepted", ("at", "before", "after"), rows)
        typer.echo(f"page: {shown(page)}")
        if found.is_better is not False:
            typer.echo(f"{output}: next: edgeface export {output} --data {asked.data} --int8")
    if found.is_better is False:
        note("edgeface: no better on the held-out photos; enroll with the model as it is")
        raise typer.Exit(1)
