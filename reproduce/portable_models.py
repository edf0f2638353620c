"""Rewrites model files so that more engines read them; weights, contract and every bit of the answers stay.

    python -m reproduce.portable_models                      # the shipped models
    python -m reproduce.portable_models runs/mine/*.int8.onnx

What an export writes is of that form already. A gallery names its model by the checkpoint that the file was made from
and by how it was made, so that it opens with the rewritten file as with the one before it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgeface_export.formats import FORMATS
from edgeface_runtime import ModelError, load
from edgeface_runtime.contract import read_contract, seal
from edgeface_runtime.metadata import file_format
from edgeface_runtime.model import probe_images, shipped


def rewrite(path: Path) -> tuple[int, int]:
    """Rewrites one file in place; its bytes before and after.

    Raises:
        ModelError: the rewritten file would answer the golden probes in other bits; the file is left as it was.
    """
    contract, kind = read_contract(path), FORMATS[file_format(path.read_bytes())]
    with TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        shutil.copyfile(path, written)
        kind.make_portable(written)
        kind.write_contract(written, contract.to_json())
        seal(written)
        probes = probe_images(contract.input.size)
        if not np.array_equal(load(path).embed(probes), load(written).embed(probes)):
            raise ModelError(f"{path}: would answer in other bits; left as it is")
        sizes = path.stat().st_size, written.stat().st_size
        written.replace(path)
    return sizes


def main() -> int:
    """Prints what became of each file; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="files of an export; none: the shipped models")
    for path in parser.parse_args().files or [model.file for model in shipped()]:
        before, after = rewrite(path)
        print(f"{path.name}: {before:,} → {after:,} bytes, the same bits")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
