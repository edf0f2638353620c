"""Builds docs/ as a site with search that opens from disk, ``site/index.html``: ``make site``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import npm_package

ROOT = Path(__file__).parent.parent
SITE = ROOT / "site"
# A page outside docs/ has no page on the site; site/ lies beside docs/, so that the page itself is at the same place.
OUTSIDE = re.compile(r'(href="(?:\.\./)+[^":]*/)index\.html')


# Lets search run from disk, where browsers start no workers; zensical would load it from the network.
SHIM = "iframe-worker@1.0.4"
SHIM_SHA512 = "roeaaI+Lg1LJNfgpCjoRe/+WzEjy9+Z08LoEvu85MCPbBjwm+qXz8Ag5U05lHa6V1CysZyGzE0SOkAtSUA5q7Q=="


def main() -> None:
    npm_package.fetch(SHIM, SHIM_SHA512, ["shim/index.js"], ROOT / "docs" / "iframe-worker")
    zensical = Path(sys.executable).with_name("zensical")
    # Its warnings are of pages outside docs/; scripts/doc_links.py checks all links.
    done = subprocess.run([zensical, "build", "--clean"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    for page in SITE.rglob("*.html"):
        page.write_text(OUTSIDE.sub(r"\1README.md", page.read_text(encoding="utf-8")), encoding="utf-8")
    print(SITE / "index.html")


if __name__ == "__main__":
    main()
