"""The check of the pages' links finds what leads nowhere, and nothing else."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BROKEN = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "doc_links.py"))["broken"]


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("[a](other.md)", None),
        ("[a](other.md#measured-nets-and-families-left-out)", None),
        ("[a](other.md#bench---host-on-a-board)", None),
        ("[a](other.md#twice-1)", None),
        ("[a](#here)", None),
        ("![a](folder/)", None),
        ("[a](https://example.org/nowhere#x)", None),
        ("`[a](absent.md)`", None),
        ("```\n[a](absent.md)\n```", None),
        ("[a](absent.md)", "page.md:3: absent.md: no such file"),
        ("![a](folder/absent.png)", "page.md:3: folder/absent.png: no such file"),
        ("[a](../outside.md)", "page.md:3: ../outside.md: no such file"),
        ("[a](other.md#twice-2)", "page.md:3: other.md#twice-2: no such heading"),
        ("[a](other.md#in-a-block)", "page.md:3: other.md#in-a-block: no such heading"),
        ("[a](#there)", "page.md:3: #there: no such heading"),
        ('<img src="absent.png">', "page.md:3: absent.png: no such file"),
    ],
)
def test_a_link_leads_somewhere_or_is_named(link: str, says: str | None, tmp_path: Path):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("# Here\n")
    (root / "other.md").write_text(
        "# Measured: nets and families left out\n\n## `bench --host`: on a board\n\n## Twice\n\n## Twice\n\n"
        "```\n# In a block\n```\n"
    )
    page = root / "page.md"
    page.write_text(f"# Here\n\n{link}\n")
    assert BROKEN(page, root) == ([] if says is None else [says])
