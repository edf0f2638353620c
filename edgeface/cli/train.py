"""``edgeface train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeface.cli.console import Json, note, print_json
from edgeface.cli.reporter import TerminalReporter
from edgeface_runtime.models import find_model

if TYPE_CHECKING:
    from torch import nn

Setting = Annotated[list[str] | None, typer.Option("--set", help="One setting, as key=value; may repeat.")]
Teacher = Annotated[
    list[Path] | None,
    typer.Option(parser=find_model, metavar="MODEL", help="Model to learn from; several make an ensemble."),
]
TeacherContract = Annotated[
    list[Path] | None, typer.Option(help="Contract of a teacher that carries none, in the order of these teachers.")
]


def train(
    data: Annotated[Path, typer.Argument(help="Folder of <identity>/<photo>, or one made by edgeface data prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.")] = Path("runs/train"),
    backbone: Annotated[str | None, typer.Option(help="Net, with options.  [default: mobilefacenet]")] = None,
    head: Annotated[str | None, typer.Option(help="Loss head.  [default: arcface]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the photos.  [default: 25]")] = None,
    embedding_dim: Annotated[
        int | None, typer.Option("--embedding-dim", "--embedding", help="Length of an embedding.  [default: 128]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, or paper.")] = None,
    setting: Setting = None,
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: imagenet, or a file; a wider net's or dlib's are fitted.")
    ] = None,
    init_names: Annotated[str | None, typer.Option(help="Name map for --init: foamliu, or a TOML file.")] = None,
    teacher: Teacher = None,
    teacher_contract: TeacherContract = None,
    guide: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Net to learn from in a teacher's place, maps included.")
    ] = None,
    unlabelled: Annotated[Path | None, typer.Option(help="Photos without names, for teachers or guide alone.")] = None,
    licence: Annotated[str, typer.Option(help="What the photos allow; travels into every model.")] = "unknown",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    json: Json = False,
) -> None:
    """Train a backbone with ArcFace on photos of people.

    Writes a run folder: run.json, curves.csv, curves.png, best.safetensors (the net) and
    last.safetensors (to resume from).

    \b
    Examples:
      edgeface train photos/
      edgeface train prepared/ --backbone resnet18 --epochs 40 --set mixed_precision=bf16 -o runs/mine
      edgeface train prepared/ --teacher big.onnx --unlabelled more/ --set classification_weight=0
      edgeface train prepared/ --backbone resnet18 --guide weights/mobilefacenet.safetensors
      edgeface train prepared/ --backbone mobilefacenet-tiny --init runs/wide --guide runs/wide
      edgeface train photos/ -o runs/mine --resume
    """
    from edgeface.data.dataset import load_data, load_unlabelled
    from edgeface.evaluation.embedder import open_teachers
    from edgeface.report.curves import draw_curves
    from edgeface.training.config import load_config
    from edgeface.training.init import start_from
    from edgeface.training.loop import train as run
    from edgeface.training.run import load_checkpoint

    reporter, given = TerminalReporter(), {"backbone": backbone, "loss": head, "epochs": epochs}
    settings = load_config(config, setting or (), reporter=reporter, embedding_dim=embedding_dim, **given)
    faces = load_data(data, size=settings.model.input_size)
    for file, reason in faces.rejected:
        note(f"left out {file}: {reason}")
    note(f"{len(faces.faces)} faces of {len(faces.identities)} people; {len(faces.rows('train'))} to train on")

    def start(net: nn.Module) -> None:
        some = faces.faces[faces.rows("train")]
        note(start_from(net, str(init), settings, faces=some, reporter=reporter, names=init_names))

    curves = run(
        faces,
        output,
        settings,
        reporter=reporter,
        licence=licence,
        resume=resume,
        init=start if init else None,
        teachers=open_teachers(teacher or (), teacher_contract or ()),
        guide=load_checkpoint(guide) if guide else None,
        unlabelled=load_unlabelled(unlabelled, size=settings.model.input_size) if unlabelled else None,
        tensorboard=tensorboard,
    )
    draw_curves(curves, output / "curves.png")
    last = curves[-1]
    if json:
        print_json({"schema": 1, "run": str(output), "epochs": last.epoch, "val_accuracy": last.val_accuracy})
    else:
        typer.echo(f"{output}: {last.epoch} epochs; next: edgeface export {output} --data {data} --int8")
