"""Brings what examples/browser needs and git does not hold into its ignored folder ``vendor``: ``make web``.

onnxruntime-web and LiteRT.js come through npm, pinned versions whose digests are checked; the detector's nets are
copied from the runtime.
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
LITERT = "@litertjs/core@2.5.3"
LITERT_SHA512 = "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ=="
# With and without relaxed SIMD: the browser loads what it can run.
LITERT_FILES = (
    "dist/index.js",
    *(f"wasm/litert_wasm_{kind}internal.{end}" for kind in ("", "compat_") for end in ("js", "wasm")),
)
UTILS = "@litertjs/wasm-utils"
UTILS_SHA512 = "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ=="
UINT8, INT8 = (
    f'''{{
    dtype: "{kind.lower()}",
    typedArrayConstructor: {kind}Array,
    elementType: ElementType.{kind.upper()}
  }}'''
    for kind in ("Uint8", "Int8")
)
"""Rows of LiteRT.js's list of arrays that tensors are made of."""
NETS = ("yunet", "onet")
NEEDED = (
    *FILES,
    *(f"litert/{Path(name).name}" for name in LITERT_FILES),
    "litert/utils/index.js",
    *(f"{net}.{end}" for net in NETS for end in ("onnx", "tflite")),
)


def complete() -> bool:
    """True where everything is there."""
    return all((VENDOR / name).exists() for name in NEEDED)


def fetch() -> None:
    """Fills the folder, unless it is full already."""
    if complete():
        return
    npm_package.fetch(PACKAGE, SHA512, [f"dist/{name}" for name in FILES], VENDOR)
    npm_package.fetch(LITERT, LITERT_SHA512, LITERT_FILES, VENDOR / "litert")
    npm_package.fetch(f"{UTILS}@2.5.3", UTILS_SHA512, ["dist/index.js"], VENDOR / "litert" / "utils")
    core = VENDOR / "litert" / "index.js"
    text = core.read_text("utf-8")
    # A browser finds a module by its path, and the page's policy forbids the map that would turn names into paths.
    text = text.replace(f'"{UTILS}"', '"./utils/index.js"')
    if INT8 not in text:  # LiteRT.js runs nets that take int8, but its list of arrays lacks theirs
        assert UINT8 in text
        text = text.replace(UINT8, f"{INT8},\n  {UINT8}", 1)
    core.write_text(text, "utf-8")
    for name in NEEDED:
        if name.rsplit(".", 1)[0] in NETS:
            shutil.copy(ROOT / "runtime" / "edgeface_runtime" / "detection" / "nets" / name, VENDOR)


if __name__ == "__main__":
    fetch()
