"""Follows a page of the documentation as a reader would: its shell and Python blocks, in order, in this folder.

    python follow.py PAGE [--needs NEED …] [--list]

A block is fenced as ``sh`` or ``python``. One that asks for more than a bare install and this machine says so in a
comment on the line before, ``<!-- needs: camera -->``, and is followed only where ``--needs`` names what it needs;
``--needs`` leaves the blocks out that need nothing else. Python blocks share their names, as in one session; what a
shell block exports or changes stays for the next. The first block that fails ends it. ``--list`` prints the blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

FENCE = re.compile(
    r"^(?: *<!-- needs: (?P<needs>\w+) -->\n)? *```(?P<kind>sh|python)\n(?P<code>.*?)^ *```$", re.M | re.S
)


def blocks(page: Path) -> list[dict[str, str | int]]:
    """The page's blocks: ``line`` of the code's begin, ``kind``, ``needs`` (empty: nothing), ``code``."""
    text = page.read_text(encoding="utf-8")
    return [
        {"line": text.count("\n", 0, found.start("code")) + 1, "kind": found["kind"], "needs": found["needs"] or ""}
        | {"code": textwrap.dedent(found["code"])}
        for found in FENCE.finditer(text)
    ]


def shell(code: str) -> None:
    """Runs lines in bash, each printed before; its folder and environment become ours."""
    with tempfile.NamedTemporaryFile("r+b") as state:
        script = f"set -veo pipefail\n{code}\nset +v\nenv -0 > {state.name}\n"
        subprocess.run(["bash", "-c", script], check=True)
        new = dict(entry.split("=", 1) for entry in state.read().decode().split("\0") if entry)
    os.environ.update(new)
    for name in os.environ.keys() - new.keys():
        del os.environ[name]
    os.chdir(new["PWD"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--needs", nargs="*", default=[""])
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    found = blocks(arguments.page)
    if arguments.list:
        print(json.dumps(found))
        return
    names: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        if block["needs"] not in arguments.needs:
            continue
        where = f"{arguments.page.name}:{block['line']}"
        print(f"# {where}", file=sys.stderr, flush=True)
        code = str(block["code"])
        try:
            if block["kind"] == "sh":
                shell(code)
            else:
                exec(compile("\n" * (int(block["line"]) - 1) + code, arguments.page, "exec"), names)
                sys.stdout.flush()
        except subprocess.CalledProcessError as error:
            sys.exit(f"{where}: ended with {error.returncode}")
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
