"""What the scripts that write a page of docs/ share."""

from __future__ import annotations

import sys
from pathlib import Path


def keep_current(page: Path, text: str) -> int:
    """Writes the page; with ``--check`` on the command line, says instead whether it is current. An exit status."""
    if "--check" not in sys.argv[1:]:
        page.write_text(text, encoding="utf-8")
        return 0
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return 0
    print(f"docs/{page.name} is not current: run make docs", file=sys.stderr)
    return 1
