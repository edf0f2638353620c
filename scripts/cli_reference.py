"""Writes docs/cli.md from every command's --help; with --check, fails when it is not current.

python scripts/cli_reference.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from reference_page import keep_current
from typer.testing import CliRunner

from edgeface.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# Command line

Made from `--help` by `make docs`; `make check` fails when it is not current.

Results go to stdout, progress and warnings to stderr. Exit code 0: done. 1: done, and the answer is no.
2: you can mend it, and one line says how. 130, 143, 129: ended by Ctrl-C, SIGTERM,
SIGHUP. `EDGEFACE_DEBUG=1` shows the traceback of an error.
"""


def commands(command: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, below in command.commands.items():
        if hasattr(below, "commands"):
            yield from commands(below, (*prefix, name))
        else:
            yield (*prefix, name)


def help_of(words: tuple[str, ...]) -> str:
    result = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}).invoke(
        app, [*words, "--help"], prog_name="edgeface"
    )
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def page() -> str:
    every = ((), *commands(typer.main.get_command(app)))
    parts = [HEAD, *(f"## {' '.join(('edgeface', *words))}\n\n```\n{help_of(words)}\n```\n" for words in every)]
    return "\n".join(parts)


def main() -> int:
    return keep_current(PAGE, page())


if __name__ == "__main__":
    sys.exit(main())
