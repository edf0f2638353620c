"""``edgeface models``."""

from __future__ import annotations

import hashlib

import typer

from edgeface.cli.console import Json, print_json, print_table

FIGURES = ("lfw_view1", "pins_ten", "pins_one", "cfp_profile")
"""Keys of a contract's ``accuracy`` that the table shows."""


def models(json: Json = False) -> None:
    """List the models that come with edgeface.

    Every command takes such a name where it takes a model file; the first is taken where none is named.
    Older versions come last: they are there for the galleries that were made with them.
    Accuracy: LFW View 1 verification, closed-set top-1 on 105 unseen identities (Pins) with ten gallery
    photos each and with one, and verification of a frontal photo with a profile (CFP). --json has the path and
    the figures of the whole contract; docs/models.md has a card each.

    \b
    Examples:
      edgeface models
      edgeface models --json
    """
    from edgeface_runtime.model import shipped

    files = shipped()
    if json:
        print_json({"schema": 1, "models": [model.as_json() for model in files]})
        return
    columns = ["file", "LFW %", "ten %", "one %", "CFP %", "MB", "sha256"]
    rows, licences = [], dict[str, list[str]]()
    for model in files:
        contract, data = model.contract, model.file.read_bytes()
        figures = [_percent(contract.accuracy.get(key)) for key in FIGURES]
        digest, licence = hashlib.sha256(data).hexdigest()[:8], contract.licence.split(":")[0]
        rows.append([model.file.name, *figures, f"{len(data) / 1e6:.2f}", digest])
        licences.setdefault(licence, []).append(model.file.name)
    print_table("LFW View 1; closed-set, 105 people, ten photos each and one; CFP's profiles", columns, rows)
    for licence, names in licences.items():
        typer.echo(f"licence of {'all' if len(licences) == 1 else ', '.join(names)}: {licence}")
    for name in dict.fromkeys(model.name for model in files if model.newest):
        typer.echo(f"{name}: an older version, kept for galleries made with it")


def _percent(figure: dict[str, float] | None) -> str:
    return "" if figure is None else f"{100 * figure['value']:.1f}"
