"""Files of one pinned package of npm, whose digest is checked."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path


def fetch(package: str, sha512: str, members: Sequence[str], folder: Path) -> None:
    """Writes the members of ``name@version`` into a folder under their last names, unless they are all there."""
    if all((folder / Path(member).name).exists() for member in members):
        return
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(f"npm is not installed; it brings {package}")
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([npm, "pack", package, "--silent"], cwd=work, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(work).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != sha512:
            sys.exit(f"{package} has the digest {digest}, not {sha512}: not used")
        folder.mkdir(exist_ok=True)
        with tarfile.open(archive) as opened:
            for member in members:
                file = opened.extractfile(f"package/{member}")
                assert file is not None, member
                (folder / Path(member).name).write_bytes(file.read())
