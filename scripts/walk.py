"""The files of the four packages that one command goes through, in the order in which it first enters them.

python scripts/walk.py identify photo.jpg --gallery people.gallery

A file is entered where one of its functions is called. What runs while modules are imported does not count, nor does
what a process that the command starts does. Before each file stands from how many others it is entered.
"""

from __future__ import annotations

import inspect
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType

PACKAGES = ("edgeface", "edgeface_export", "edgeface_devices", "edgeface_runtime")


def walk(arguments: list[str]) -> tuple[int, dict[str, set[str]]]:
    """The exit code of ``edgeface`` with these arguments; and file → the files from which it is entered."""
    from edgeface.cli import run

    roots = tuple(str(Path(spec.origin).parent) for name in PACKAGES if (spec := find_spec(name)) and spec.origin)
    entered: dict[str, set[str]] = {}
    seen: set[tuple[CodeType, CodeType | None]] = set()

    def enter(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # A body of a module or a class, and a comprehension, are no functions.
        is_function = code.co_flags & inspect.CO_NEWLOCALS and not code.co_name.startswith("<")
        if event != "call" or not is_function or not code.co_filename.startswith(roots):
            return
        if (code, frame.f_back and frame.f_back.f_code) in seen:
            return
        seen.add((code, frame.f_back and frame.f_back.f_code))
        stack = []
        while (frame := frame.f_back) is not None:  # type: ignore[assignment]
            stack.append(frame.f_code)
        if any(caller.co_filename.startswith("<frozen importlib") for caller in stack):
            return
        came = next((caller.co_filename for caller in stack if caller.co_filename.startswith(roots)), code.co_filename)
        entered.setdefault(code.co_filename, set()).update({came} - {code.co_filename})

    threading.setprofile(enter)
    sys.setprofile(enter)
    try:
        status = run(arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return status, entered


def main() -> None:
    status, entered = walk(sys.argv[1:])
    for file, came in entered.items():
        print(f"{len(came):3}  {file}", file=sys.stderr)
    print(f"{len(entered)} files, exit {status}", file=sys.stderr)


if __name__ == "__main__":
    main()
