"""``edgeface train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import Json, TerminalReporter, going_on, print_json
from edgeface_runtime import UsageError
from edgeface_runtime.checks import shown
from edgeface_runtime.model import tried_model

if TYPE_CHECKING:
    from torch import nn

DATA = "Folder of <identity>/<photo>, or one made by edgeface data prepare. --resume knows it, unless it was moved."
BACKBONE = (
    "mobilefacenet, mobilefacenet-tiny, resnet18, vgg11 or vgg16; options follow a colon: resnet18:pool=none; or any "
    "net of timm: timm:mobilenetv4_conv_small.  [default: mobilefacenet]"
)
HEAD = (
    "Loss on the embedding: arcface, arcface-learned (a learned margin), arcface-subcenter (for wrong labels), magface "
    "(the length tells the quality), cosface, adaface (a margin by the photo's quality) or softmax.  [default: arcface]"
)
INIT = (
    "Weights to start from: a shipped model's name, a run folder or .safetensors, whose backbone, embedding and "
    "normalization are taken too, .pt, a float .tflite, imagenet, timm:NAME (downloaded); a wider MobileFaceNet is "
    "pruned to fit, dlib's net initializes resnet18/vgg11 by way of python -m reproduce.dlib_start."
)
GUIDE = (
    "Feature-distillation teacher (FitNets), a run, a checkpoint or a shipped model's name: embeddings and "
    "intermediate feature maps."
)
LICENCE = "Licence of the photos; travels into every model.  [default: a prepared folder's own, else unknown]"
RESUME = "Continue the run in the output folder, with its photos, settings and teachers."
SETTING = "One setting, as key=value; may repeat. docs/training-config.md lists all keys."

Teacher = Annotated[
    list[Path] | None,
    typer.Option(
        parser=tried_model, metavar="MODEL", help="Model whose embeddings the student learns; several make an ensemble."
    ),
]
TeacherContract = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Contract of a --teacher that carries none: TOML or JSON file, or a name; may repeat, in their order.",
    ),
]


def train(
    data: Annotated[Path | None, typer.Argument(help=DATA, show_default=False)] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.")] = Path("runs/train"),
    backbone: Annotated[str | None, typer.Option(help=BACKBONE)] = None,
    head: Annotated[str | None, typer.Option(help=HEAD)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the photos.  [default: 25]")] = None,
    embedding_dim: Annotated[
        int | None, typer.Option("--embedding-dim", "--embedding", help="Length of an embedding.  [default: 128]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file of settings; paper: those of the ArcFace paper.")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SETTING)] = None,
    init: Annotated[str | None, typer.Option(metavar="WEIGHTS", help=INIT)] = None,
    init_names: Annotated[
        str | None, typer.Option(metavar="MAP", help="Layer names of --init: foamliu, or a TOML or JSON file.")
    ] = None,
    teacher: Teacher = None,
    teacher_contract: TeacherContract = None,
    guide: Annotated[Path | None, typer.Option(metavar="CHECKPOINT", help=GUIDE)] = None,
    unlabeled: Annotated[
        Path | None,
        typer.Option("--unlabeled", "--unlabelled", help="Unlabeled photos, used only in the distillation loss."),
    ] = None,
    licence: Annotated[str | None, typer.Option(metavar="TEXT", help=LICENCE)] = None,
    resume: Annotated[bool, typer.Option("--resume", help=RESUME)] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events into the run folder too.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a face embedding model on photos of people.

    Writes a run folder: report.html (what came of it, with faces), run.json, summary.json, curves.csv, curves.png,
    best.safetensors (the model) and last.safetensors (to resume from).

    \b
    Examples:
      edgeface train photos/
      edgeface train prepared/ --backbone resnet18 --epochs 40 --set mixed_precision=bf16 -o runs/mine
      edgeface train prepared/ --teacher big.onnx --unlabeled more/ --set classification_weight=0
      edgeface train prepared/ --backbone resnet18 --guide weights/mobilefacenet.safetensors
      edgeface train prepared/ --backbone mobilefacenet-tiny --init runs/wide --guide runs/wide
      edgeface train -o runs/mine --resume
      edgeface train photos/ --init runs/mine --set lr=1e-3 -o runs/next
    """
    from edgeface.data.dataset import licence_of_photos, open_faces, open_unlabeled
    from edgeface.evaluation.opening import open_teachers
    from edgeface.progress import SILENT
    from edgeface.report.curves import draw_curves
    from edgeface.training.checkpoints import load_checkpoint, origins
    from edgeface.training.config import as_dict, by_key, load_config
    from edgeface.training.init.start import settings_of, start_from
    from edgeface.training.loop import train as run
    from edgeface.training.processes import is_main_process
    from edgeface.training.record import RECORD, Command, resumed
    from edgeface.training.training_state import check_names

    reporter = TerminalReporter() if is_main_process() else SILENT
    asked = Command(
        data=data, init=init, init_names=init_names, teacher=teacher or [], teacher_contract=teacher_contract or [],
        guide=guide, unlabeled=unlabeled, licence=licence, tensorboard=tensorboard,
    )  # fmt: skip
    record = None
    if resume:
        output, asked, record = resumed(output, asked, reporter)
    if asked.data is None:
        raise UsageError("Missing argument 'DATA': a folder of <identity>/<photo>; edgeface train --help says more")
    base: dict[str, object] = settings_of(asked.init) if asked.init and record is None else {}
    if record is not None:
        base = by_key(as_dict(record.config))
    given = {"backbone": backbone, "loss": head, "epochs": epochs, "embedding_dim": embedding_dim}
    settings = load_config(config, setting or (), base=base, reporter=reporter, **given)
    check_names(settings)
    faces = open_faces(asked.data, size=settings.model.input_size, reporter=reporter)
    for file, reason in faces.rejected:
        reporter.say(f"left out {file}: {reason}")
    reporter.say(f"{len(faces.faces)} faces of {len(faces.identities)} people; {len(faces.rows('train'))} to train on")

    def start(net: nn.Module) -> None:
        some = faces.faces[faces.rows("train")]
        reporter.say(start_from(net, str(asked.init), settings, faces=some, names=asked.init_names))

    opened = []
    if asked.teacher or asked.teacher_contract:
        opened = open_teachers([tried_model(path) for path in asked.teacher], asked.teacher_contract)
    feature_teacher = load_checkpoint(asked.guide) if asked.guide else None
    learnt = list(zip(asked.teacher, opened, strict=True))
    sources = record.sources if record else origins(asked.init, learnt, feature_teacher, asked.unlabeled)
    command = shlex.join(["edgeface", "train", "--resume", "-o", shown(output)])
    with going_on(output / RECORD, command, reporter):
        curves = run(
            faces,
            output,
            settings,
            reporter=reporter,
            licence=licence_of_photos(asked.data, asked.licence),
            sources=sources,
            resume=resume,
            init=start if asked.init else None,
            teachers=opened,
            feature_teacher=feature_teacher,
            unlabeled=open_unlabeled(asked.unlabeled, size=settings.model.input_size) if asked.unlabeled else None,
            tensorboard=asked.tensorboard,
            command=asked.document(),
        )
        if not is_main_process():
            return
        from edgeface.report.run_page import write_run_page

        reporter.say("a page of the run, from its validation photos")
        draw_curves(curves, output / "curves.png")
        found = write_run_page(output, faces, curves)
    if json:
        print_json(found.as_json())
    else:
        for line in found.lines():
            typer.echo(line)
