"""Brings what examples/browser needs and git does not hold into its ignored folder ``vendor``: ``make web``.

onnxruntime-web comes through npm, one pinned version whose digest is checked; the detector's nets are copied from
the runtime.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import npm_package

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
    npm_package.fetch(PACKAGE, SHA512, [f"dist/{name}" for name in FILES], VENDOR)
    for net in NETS:
        shutil.copy(ROOT / "runtime" / "edgeface_runtime" / "detection" / "nets" / f"{net}.onnx", VENDOR)


if __name__ == "__main__":
    fetch()
