"""Writes docs/api.md from the docstrings of edgeface_runtime; with --check, fails when it is not current.

python scripts/api_reference.py [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from reference_page import keep_current

import edgeface_runtime

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
HEAD = """# API of `edgeface_runtime`

Made from the docstrings by `make docs`; `make check` fails when it is not current. `import edgeface` offers the same
names, `edgeface.Gallery` and so on.
"""
ERRORS = """## Errors

    {tree}

"""
TESTING = "## For your own tests\n\n`from edgeface_runtime.testing import fake_recognizer, fake_photo, PEOPLE`\n\n"
KEYWORD_ONLY = griffe.ParameterKind.keyword_only


def signature(function: Any) -> str:
    """What stands in parentheses after the name, and what comes back."""
    parts = []
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        stars = "*" if "var" in parameter.kind.value else ""
        annotation = f": {kind(parameter.annotation)}" if parameter.annotation else ""
        default = f" = {parameter.default}" if parameter.default is not None and not stars else ""
        parts.append(f"{stars}{parameter.name}{annotation}{default}")
    back = f" → {function.returns}" if function.returns and str(function.returns) != "None" else ""
    return f"({', '.join(parts)}){back}"


def kind(annotation: Any) -> str:
    """A type, by the name that it is imported by."""
    return str(annotation).replace("edgeface_runtime.", "")


def text(docstring: Any) -> Iterator[str]:
    """A docstring's paragraphs, then its arguments, what it returns and what it raises as lists."""
    sections = docstring.parse("google") if docstring else []
    for part in ("text", "parameters", "returns", "raises"):
        for section in sections:
            if section.kind.value == part == "text":
                yield plain(section.value) + "\n\n"
            elif section.kind.value == part:
                yield "".join(f"- {label(part, one)}: {line(one.description)}\n" for one in section.value) + "\n"


def label(part: str, one: Any) -> str:
    return {
        "parameters": f"`{getattr(one, 'name', '')}`",
        "returns": "returns",
        "raises": f"raises `{one.annotation}`",
    }[part]


def plain(said: str) -> str:
    """Markdown for the little reStructuredText that docstrings hold."""
    return said.replace("``", "`")


def line(said: str) -> str:
    return plain(" ".join(said.split()))


def members(found: Any) -> Iterator[str]:
    """A class: its fields as a list, how it is made, its methods."""
    fields = [one for one in found.members.values() if one.is_attribute and not one.is_private and one.annotation]
    for field in fields:
        hidden = field.value is None or str(field.value).startswith(("_", "field("))
        said = f" — {line(field.docstring.value)}" if field.docstring else ""
        yield f"- `{field.name}: {field.annotation}{'' if hidden else f' = {field.value}'}`{said}\n"
    yield "\n"
    for method in found.members.values():
        if method.is_function and method.docstring and not method.is_private:
            own = {"__init__": found.name, "__len__": f"{found.name}.__len__"}
            yield f"### `{own.get(method.name, f'{found.name}.{method.name}')}{signature(method)}`\n\n"
            yield from text(method.docstring)


def entry(found: Any) -> Iterator[str]:
    if found.is_function:
        yield f"## `{found.name}{signature(found)}`\n\n"
        yield from text(found.docstring)
    elif found.is_class:
        yield f"## `{found.name}`\n\n"
        yield from text(found.docstring)
        yield from members(found)
    else:
        yield f"## `{found.name} = {found.value}`\n\n"
        yield from text(found.docstring)


def page() -> str:
    package = griffe.load("edgeface_runtime", search_paths=[ROOT / "runtime"], resolve_aliases=True)
    names = edgeface_runtime.__all__
    errors = [name for name in names if name.endswith("Error")]
    parts = [HEAD]
    for name in names:
        if name not in errors:
            parts += ["\n", *entry(package[name].final_target)]
    tree = edgeface_runtime.errors.__doc__.split("::")[1]
    parts.append("\n" + ERRORS.format(tree=tree.strip()))
    parts.append("\n" + TESTING)
    parts += [line for name in ("fake_recognizer", "fake_photo", "PEOPLE") for line in entry(package["testing"][name])]
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).strip() + "\n"


def main() -> int:
    return keep_current(PAGE, page())


if __name__ == "__main__":
    sys.exit(main())
