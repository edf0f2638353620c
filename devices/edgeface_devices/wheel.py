"""edgeface's own wheel, made of the packages that are running: what is measured elsewhere is what is installed here."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

PACKAGES = ("edgeface", "edgeface_export", "edgeface_devices", "edgeface_runtime")
_EPOCH = (2020, 1, 1, 0, 0, 0)
"""One date for every file, so that the same code makes the same bytes."""


def write_wheel(folder: Path) -> Path:
    """Writes ``edgeface-<version>-py3-none-any.whl`` (PEP 427) into a folder and gives its path.

    Works for an editable install and for one from a wheel; neither a build backend nor a network is needed.
    """
    installed = distribution("edgeface")
    info = f"edgeface-{installed.version}.dist-info"
    path = folder / f"edgeface-{installed.version}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*_modules(), *_metadata(info)]:
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}\n")
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _EPOCH), "".join([*record, f"{info}/RECORD,,\n"]))
    return path


def requirements() -> list[str]:
    """What the base install needs, as pip takes it."""
    return [text for text in distribution("edgeface").requires or [] if "extra ==" not in text]


def _modules() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        for file in sorted(root.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield f"{package}/{file.relative_to(root).as_posix()}", file.read_bytes()


def _metadata(info: str) -> Iterator[tuple[str, bytes]]:
    for name in ("METADATA", "WHEEL", "entry_points.txt"):
        yield f"{info}/{name}", (distribution("edgeface").read_text(name) or "").encode()
