"""Writes docs/training-config.md from the training configuration; with --check, fails when it is not current.

python scripts/training_config_reference.py [--check]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import griffe
from reference_page import keep_current

from edgeface.training.config import GROUPS, KEYS, OLD_NAMES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "training-config.md"
HEAD = """# Training settings

Made from `edgeface/training/config.py` by `make docs`; `make check` fails when it is not current.

`edgeface train --set key=value` changes one, alone (`--set lr=1e-3`) or with its group (`--set optim.lr=1e-3`); so does
a TOML file with `--config`, which has a table for each group:

```toml
[optim]
lr = 1e-3
ema_decay = 0.999

[schedule]
progressive_size = 64
```

An unknown key is refused and the nearest one named. `run.json` holds the settings of a run in the same groups.
"""
COLUMNS = ("key", "default", "unit", "allowed", "effect")


def page() -> str:
    """One table a group, one row a key, and the names that keys had once."""
    module = griffe.load("edgeface.training.config", search_paths=[ROOT])
    parts = [HEAD]
    for name, group in GROUPS.items():
        found = module[group.__name__]
        parts.append(f"\n## `[{name}]`\n\n{plain(found.docstring.value)}\n\n")
        parts += [row(COLUMNS), row(["---"] * len(COLUMNS))]
        for item in dataclasses.fields(group):
            facts = item.metadata
            default = str(item.default).lower() if isinstance(item.default, bool) else str(item.default)
            cells = (f"`{item.name}`", f"`{default}`", facts["unit"], facts["allowed"])
            parts.append(row([*cells, plain(found.members[item.name].docstring.value)]))
    parts.append("\n## Old names\n\nStill taken, with a line that says the new one; runs saved under them resume.\n\n")
    parts += [row(("old", "key")), row(("---", "---"))]
    parts += [row((f"`{old}`", f"`{KEYS[key][0]}.{key}`")) for old, key in OLD_NAMES.items()]
    return "".join(parts)


def row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n"


def plain(said: str) -> str:
    """Markdown, in one line, for the little reStructuredText that docstrings hold."""
    return " ".join(said.split()).replace("``", "`")


def main() -> int:
    return keep_current(PAGE, page())


if __name__ == "__main__":
    sys.exit(main())
