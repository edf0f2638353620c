"""``edgeface train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import Json, TerminalReporter, print_json
from edgeface_runtime.model import tried_model

if TYPE_CHECKING:
    from torch import nn

BACKBONE = (
    "mobilefacenet, mobilefacenet-tiny, resnet18, vgg11 or vgg16; options follow a colon: resnet18:pool=none.  "
    "[default: mobilefacenet]"
)
HEAD = (
    "Loss on the embedding: arcface, arcface-learned (a learned margin), cosface, adaface (a margin by the photo's "
    "quality) or softmax.  [default: arcface]"
)
INIT = (
    "Weights to start from: a shipped model's name, a run folder or .safetensors, whose backbone, embedding and "
    "normalization are taken too, .pt, a float .tflite, imagenet; a wider MobileFaceNet is pruned to fit, dlib's net "
    "initializes resnet18/vgg11 by way of python -m reproduce.dlib_start."
)
GUIDE = (
    "Feature-distillation teacher (FitNets), a run, a checkpoint or a shipped model's name: embeddings and "
    "intermediate feature maps."
)
LICENCE = "Licence of the photos; travels into every model.  [default: a prepared folder's own, else unknown]"
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
    data: Annotated[Path, typer.Argument(help="Folder of <identity>/<photo>, or one made by edgeface data prepare.")],
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
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events into the run folder too.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a face embedding model on photos of people.

    Writes a run folder: run.json, curves.csv, curves.png, best.safetensors (the model) and
    last.safetensors (to resume from).

    \b
    Examples:
      edgeface train photos/
      edgeface train prepared/ --backbone resnet18 --epochs 40 --set mixed_precision=bf16 -o runs/mine
      edgeface train prepared/ --teacher big.onnx --unlabeled more/ --set classification_weight=0
      edgeface train prepared/ --backbone resnet18 --guide weights/mobilefacenet.safetensors
      edgeface train prepared/ --backbone mobilefacenet-tiny --init runs/wide --guide runs/wide
      edgeface train photos/ -o runs/mine --resume
    """
    from edgeface.data.dataset import licence_of_photos, open_faces, open_unlabeled
    from edgeface.evaluation.opening import open_teachers
    from edgeface.progress import SILENT
    from edgeface.report.curves import draw_curves
    from edgeface.training.checkpoints import load_checkpoint, origins
    from edgeface.training.config import load_config
    from edgeface.training.init.start import settings_of, start_from
    from edgeface.training.loop import train as run
    from edgeface.training.processes import is_main_process

    reporter = TerminalReporter() if is_main_process() else SILENT
    given = {"backbone": backbone, "loss": head, "epochs": epochs}
    base = settings_of(init) if init else {}
    settings = load_config(config, setting or (), base=base, reporter=reporter, embedding_dim=embedding_dim, **given)
    faces = open_faces(data, size=settings.model.input_size, reporter=reporter)
    for file, reason in faces.rejected:
        reporter.say(f"left out {file}: {reason}")
    reporter.say(f"{len(faces.faces)} faces of {len(faces.identities)} people; {len(faces.rows('train'))} to train on")

    def start(net: nn.Module) -> None:
        some = faces.faces[faces.rows("train")]
        reporter.say(start_from(net, str(init), settings, faces=some, names=init_names))

    opened = open_teachers(teacher or (), teacher_contract or ()) if teacher or teacher_contract else []
    feature_teacher = load_checkpoint(guide) if guide else None
    curves = run(
        faces,
        output,
        settings,
        reporter=reporter,
        licence=licence_of_photos(data, licence),
        sources=origins(init, list(zip(teacher or (), opened, strict=True)), feature_teacher, unlabeled),
        resume=resume,
        init=start if init else None,
        teachers=opened,
        feature_teacher=feature_teacher,
        unlabeled=open_unlabeled(unlabeled, size=settings.model.input_size) if unlabeled else None,
        tensorboard=tensorboard,
    )
    if not is_main_process():
        return
    draw_curves(curves, output / "curves.png")
    last = curves[-1]
    if json:
        print_json({"schema": 1, "run": str(output), "epochs": last.epoch, "val_accuracy": last.val_accuracy})
    else:
        epochs_done = "1 epoch" if last.epoch == 1 else f"{last.epoch} epochs"
        typer.echo(f"{output}: {epochs_done}; next: edgeface export {output} --data {data} --int8")
