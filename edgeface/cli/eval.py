"""``edgeface eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeface.cli.console import ERR, Json, TerminalReporter, bar, note, print_json, print_table
from edgeface_runtime.model import tried_model

Source = Annotated[
    Path,
    typer.Argument(
        parser=tried_model,
        metavar="MODEL",
        help="Run folder, checkpoint, .onnx or .tflite file, or a name of `models`.",
    ),
]
Data = Annotated[Path | None, typer.Option("--data", "-d", help="Folder of <identity>/<photo>, or a prepared one.")]
CONTRACT = "Contract of a model without one: TOML or JSON file, name (insightface, sface …), or auto: found by --data."
Method = Annotated[str, typer.Option(help="Classifier of test photos: centroid, svc, or head (of a run folder).")]


def eval(
    model: Source,
    data: Data = None,
    method: Method = "centroid",
    flip: Annotated[
        bool, typer.Option("--flip", help="Average the embeddings of each face and its mirror image; twice the time.")
    ] = False,
    lfw: Annotated[Path | None, typer.Option(help="Folder of LFW's photos, or a prepared one.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Pair list to score: LFW's pairsDevTest.txt or pairs.txt, CALFW's or CPLFW's list."),
    ] = None,
    train_pairs: Annotated[Path | None, typer.Option(help="Pair list that the threshold is chosen on.")] = None,
    cfp: Annotated[
        Path | None, typer.Option(help="Folder of CFP (frontal and profile photos), with Data and Protocol.")
    ] = None,
    folds: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Folds of --cfp to measure, such as 1,3-10; default: all.")
    ] = None,
    open_set: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="KNOWN UNKNOWN", help="Folders of <identity>/<photo>: people to enroll, and people to turn away."
        ),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="Detector: yunet (as on devices), blazeface, mtcnn, or a YuNet file.")
    ] = "yunet",
    groups: Annotated[
        Path | None, typer.Option(help="CSV with the columns identity and group, for FMR and FNMR per group.")
    ] = None,
    contract: Annotated[Path | None, typer.Option(metavar="FILE|NAME|auto", help=CONTRACT)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for tables and pictures.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page to write, with the misidentified photos.")] = None,
    example: Annotated[int | None, typer.Option(min=0, help="Index of a test photo to show, from 0.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 1,
    json: Json = False,
) -> None:
    """Measure a model's identification and verification accuracy.

    With --data, each identity's training and validation photos are its gallery, every test photo is
    identified in it (1:N, closed set), and all pairs of test photos are scored (1:1). With --lfw, the pairs of a
    list are scored instead: View 1 with --train-pairs, View 2 fold by fold. With --cfp, the frontal-frontal and
    frontal-profile pairs of CFP, fold by fold. With --open-set, galleries of 5, 10, 20 …
    of the known people with 1, 3 and 10 photos each are searched for their other photos and for all of the unknown
    people's: FPIR and FNIR (1:N, open set).

    \b
    Examples:
      edgeface eval runs/train --data photos/
      edgeface eval runs/vgg --data prepared/ --method svc -o results/ --report results/page.html
      edgeface eval mobilefacenet --open-set staff/ visitors/ -o results/
      edgeface eval net.onnx --lfw lfw/ --pairs pairsDevTest.txt --train-pairs pairsDevTrain.txt --json
      edgeface eval mobilefacenet --lfw calfw/images --pairs pairs_CALFW.txt
      edgeface eval mobilefacenet --cfp cfp-dataset/
    """
    from edgeface.evaluation.examples import example_at
    from edgeface.evaluation.pipeline import Plan, evaluate_model
    from edgeface_runtime import UsageError
    from edgeface_runtime.files import check_target, make_folder

    plan = Plan(
        data=data, method=method, flip=flip, lfw=lfw, pairs=pairs, train_pairs=train_pairs, detector=detector,
        cfp=cfp, folds=None if folds is None else numbers_of(folds, "--folds"), open_set=open_set, groups=groups,
        contract=contract, threads=threads,
    )  # fmt: skip
    if example is not None and (data is None or not (output or report)):
        raise UsageError("--example shows a photo of --data in --output FOLDER or --report PAGE; name them")
    if output is not None or report is not None:
        # Imported now: a missing extra is said before the work.
        from edgeface.report.evaluation import write_folder, write_page
    if output is not None:
        make_folder(output)
    if report is not None:
        check_target(report)
    measured = evaluate_model(
        model, plan, reporter=TerminalReporter(), progress=lambda photos: bar(ERR, photos, "aligning")
    )
    result, shown = measured.evaluation, None if example is None else example_at(measured.examples, example)
    if output is not None:
        for file in write_folder(output, result, measured.data, shown):
            note(f"wrote {file}")
    if report is not None:
        write_page(report, result, measured.data, measured.examples, model=str(model), example=shown)
        note(f"wrote {report}")
    if json:
        print_json({"schema": 1, "model": str(model), "flip": flip, **result.as_json()})
        return
    if data or lfw or cfp:
        print_table(f"{model} on {data or lfw or cfp}", ("figure", "value"), result.rows())
    if result.open_set is not None:
        title = f"{model} on {' and '.join(map(str, open_set or ()))}, open set"
        for photos_each, heads, rows in result.open_set.narrow_tables():
            print_table(f"{title}, {photos_each}", heads, rows)


def numbers_of(text: str, option: str) -> frozenset[int]:
    """The numbers of a list like ``1,3-10``.

    Raises:
        UsageError: another form.
    """
    from edgeface_runtime import UsageError

    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 1000):
            raise UsageError(f"{option} {text}: give numbers and ranges, such as 1,3-10")
        numbers.update(range(int(first), int(last) + 1))
    return frozenset(numbers)
