"""Checks that each link of the pages to a file, a folder or a heading leads somewhere; exit 1 where one does not.

python scripts/doc_links.py
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parent.parent
PAGES = ("*.md", "docs/**/*.md", "examples/**/*.md", "findings/**/*.md", "reproduce/**/*.md")
VENDORED = {"node_modules", "vendor"}

CODE = re.compile(r"^ *```.*?^ *```$|(`+)(?!`).+?(?<!`)\1(?!`)", re.MULTILINE | re.DOTALL)
FENCES = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)>\s]+)>?(?: \"[^\"]*\")?\)|^\[[^\]]+\]: (\S+)|(?:href|src)=\"([^\"]+)\"", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
SCHEME = re.compile(r"[a-z][a-z+.-]*:")


@cache
def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings, and those that it gives itself."""
    text = FENCES.sub("", page.read_text(encoding="utf-8"))
    found, seen = set(re.findall(r"(?:id|name)=\"([^\"]+)\"", text)), Counter[str]()
    for title in HEADING.findall(text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """A line for each link of a page that leads nowhere: where it stands, what it says, what is absent."""
    text = page.read_text(encoding="utf-8")
    # Code keeps its lines, so that those of the links stay right.
    prose = CODE.sub(lambda code: "`" + "\n" * code[0].count("\n") + "`", text)
    told = []
    for found in LINK.finditer(prose):
        target = next(filter(None, found.groups()))
        if SCHEME.match(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        to = (page.parent / path).resolve() if path else page
        where = f"{page.relative_to(root)}:{prose.count(chr(10), 0, found.start()) + 1}: {target}"
        if not to.is_relative_to(root) or not to.exists():
            told.append(f"{where}: no such file")
        elif anchor and (to.suffix != ".md" or anchor not in anchors(to)):
            told.append(f"{where}: no such heading")
    return told


def main() -> None:
    pages = sorted({page for pattern in PAGES for page in ROOT.glob(pattern) if not VENDORED & set(page.parts)})
    told = [line for page in pages for line in broken(page)]
    sys.exit("\n".join(told) if told else 0)


if __name__ == "__main__":
    main()
