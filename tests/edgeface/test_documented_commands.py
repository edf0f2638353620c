"""Every ``edgeface`` command that the pages, the help and the scripts name takes the options that they give it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from edgeface.cli import ClickError, app

ROOT = Path(__file__).parents[2]
APP = typer.main.get_command(app)
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "examples/**/*.md")
CODE = ("examples/**/*.py", "scripts/*.py", "reproduce/*.py", "benchmarks/*.py", "edgeface/cli/*.py")
# At the start of a line, perhaps after settings of the environment, or between backticks.
COMMAND = re.compile(r"(?:^ *(?:\w+=\S+ )*|`)edgeface ([a-z]+\b[^`\n]*)", re.MULTILINE)
ENDS = {"|", ">", "&&", ";"}


def commands() -> Iterator[tuple[str, str]]:
    """Where a command stands, and its words."""
    for path in sorted(path for place in (*PAGES, *CODE) for path in ROOT.glob(place)):
        text = re.sub(r"\\\n *", " ", path.read_text(encoding="utf-8"))
        for found in COMMAND.finditer(text):
            yield path.relative_to(ROOT).as_posix(), found[1].strip()


def parse(words: list[str]) -> None:
    """As the command line does, without looking whether the files are there."""
    command = APP
    while hasattr(command, "commands") and words:
        command, words = command.commands[words[0]], words[1:]
    command.make_parser(command.context_class(command)).parse_args(list(words))


def test_documented_commands_have_the_options_that_they_are_given() -> None:
    wrong, seen = [], 0
    for place, line in commands():
        words = shlex.split(line, comments=True)
        end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
        try:
            parse(words[:end])
            seen += 1
        except (ClickError, KeyError) as error:
            if "requires an argument" in str(error):  # prose that names an option: `edgeface run --folder`
                continue
            wrong.append(f"{place}: {line}: {error!r}")
    assert wrong == []
    assert seen > 100


def test_an_option_that_is_not_there_is_noticed() -> None:
    with pytest.raises(ClickError, match="No such option"):
        parse(shlex.split("data split prepared/pins --protocool paper"))
    parse(shlex.split("data split prepared/pins --protocol paper"))
