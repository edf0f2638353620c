"""Brings what examples/browser needs and git does not hold into its ignored folder ``vendor``: ``make web``.

onnxruntime-web comes through npm, one pinned version whose digest is checked; the detector's nets are copied from
the runtime.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
VENDOR = ROOT / "examples" / "browser" / "vendor"
PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
NETS = ("blazeface_full_range", "blazeface_short_range", "onet")


def complete() -> bool:
    """True where everything is there."""
    return all((VENDOR / name).exists() for name in (*FILES, *(f"{net}.onnx" for net in NETS)))


def fetch() -> None:
    """Fills the folder, unless it is full already."""
    if complete():
        return
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(f"npm is not installed; it brings {PACKAGE} for examples/browser")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "pack", PACKAGE, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != SHA512:
            sys.exit(f"{PACKAGE} has the digest {digest}, not {SHA512}: not used")
        VENDOR.mkdir(exist_ok=True)
        with tarfile.open(archive) as package:
            for name in FILES:
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None, name
                (VENDOR / name).write_bytes(member.read())
    for net in NETS:
        shutil.copy(ROOT / "runtime" / "edgeface_runtime" / "detection" / "nets" / f"{net}.onnx", VENDOR)


if __name__ == "__main__":
    fetch()
