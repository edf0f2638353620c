"""Finds the photos of a source folder and whom they show, in the layouts that public sets come in."""

from __future__ import annotations

import csv
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeface_runtime.checks import read_text
from edgeface_runtime.errors import UsageError
from edgeface_runtime.images import SUFFIXES, shown
from edgeface_runtime.tables import anything, read_table

_LFW_FLAT = re.compile(r"(.+)_\d{4}$")
_PATH_COLUMNS = ("path", "file", "filename", "image", "image_id")
_IDENTITY_COLUMNS = ("identity", "name", "person", "label", "id")
_MOST = 1_000_000_000
"""Bytes of a list of labels: ten million photos."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class SourcePhoto:
    """One photo of a source folder."""

    path: Path
    identity: str
    """Whom it shows, as a relative folder name that is safe to create."""
    source: str
    """The path relative to the source folder, as valid UTF-8."""


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is no photo or cannot be reached."""

    source: str
    reason: str
    detail: str
    identity: str = ""


@dataclass(frozen=True)
class SourceListing:
    """What a source folder holds, sorted by path."""

    photos: tuple[SourcePhoto, ...]
    skipped: tuple[Skipped, ...]
    layout: str


def read(src: str | Path, *, labels: str | Path | None = None, depth: int = 1) -> SourceListing:
    """Lists a source folder.

    Without ``labels`` the layout is seen from the folder: one folder per identity (nested LFW is
    one of these), else photos named ``Name_0001.jpg`` lying flat (LFW).

    Args:
        src: the folder; symbolic links in it are followed.
        labels: a file that names the identities: a CSV with the columns path and identity, or
            CelebA's identity file (``000001.jpg 2880`` a line). Paths are relative to ``src``.
        depth: how many folder levels name the identity: 1 for ``Ann/1.jpg``, 2 for families
            as in ``F0002/MID1/1.jpg``.

    Raises:
        UsageError: no such folder, no photo in it, or no way to tell whom the photos show.
    """
    src = Path(src)
    if not src.is_dir():
        raise UsageError(f"{shown(src)}: no such folder of photos")
    skipped: list[Skipped] = []
    files = sorted(_walk(src, skipped), key=lambda path: os.fsencode(path))
    names = {path: shown(path.relative_to(src)) for path in files}
    paths = []
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            paths.append(path)
        else:
            skipped.append(
                Skipped(names[path], "not a photo", f"{path.suffix or 'no suffix'} is no image type read here")
            )
    if not paths:
        raise UsageError(f"{shown(src)}: no photo in it ({', '.join(sorted(SUFFIXES))})")
    layout, identities = _identities(src, paths, names, labels, depth)
    photos = []
    for path in paths:
        source = names[path]
        if identity := identities.pop(source, ""):
            photos.append(SourcePhoto(path, _safe(identity), source))
        else:
            skipped.append(Skipped(source, "no identity", f"the {layout} layout gives it no identity"))
    skipped += [
        Skipped(source, "absent", "named in the labels, not in the folder", identities[source]) for source in identities
    ]
    return SourceListing(tuple(photos), tuple(sorted(skipped, key=lambda skip: skip.source)), layout)


def read_labels(path: str | Path) -> dict[str, str]:
    """File name → identity, from a CSV with a header or from CelebA's ``name identity`` lines.

    Raises:
        UsageError: no such file, or neither of the two forms.
    """
    path = Path(path)
    try:
        text = read_text(path, _MOST, encoding="utf-8-sig")
        head = next(csv.reader(text.splitlines()[:1]), [])
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{shown(path)}: the labels cannot be read: {reason}") from error
    columns = {name.strip().lower(): name.strip() for name in head}
    where = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
    who = next((columns[name] for name in _IDENTITY_COLUMNS if name in columns), None)
    if where and who and (rows := read_table(path, {where: anything, who: anything})):
        return {row[where].strip(): row[who].strip() for row in rows}
    pairs = [line.split() for line in text.splitlines() if line.strip()]
    if pairs and all(len(pair) == 2 for pair in pairs):
        return {pair[0]: pair[1] for pair in pairs}
    raise UsageError(f"{shown(path)}: neither a CSV with the columns path and identity nor lines of file and identity")


def _identities(
    src: Path, paths: list[Path], names: dict[Path, str], labels: str | Path | None, depth: int
) -> tuple[str, dict[str, str]]:
    """Name of the layout, and source → identity."""
    if labels is not None:
        return "labels", read_labels(labels)
    folders = {names[path]: path.relative_to(src).parts[:-1] for path in paths}
    if any(folders.values()):
        return "folders", {
            source: shown(Path(*parts[:depth])) for source, parts in folders.items() if len(parts) >= depth
        }
    flat = {names[path]: match[1] for path in paths if (match := _LFW_FLAT.match(shown(path.stem)))}
    if not flat:
        raise UsageError(f"{shown(src)}: photos lie flat and their names tell no identity; name a CSV with --labels")
    return "flat", flat


def _walk(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Files below a folder, links followed; what cannot be entered goes to ``skipped``."""

    def say(path: str | Path, reason: str, detail: str) -> None:
        skipped.append(Skipped(shown(os.path.relpath(path, folder)), reason, detail))

    def enter(path: str | Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
        try:
            status = Path(path).stat()
            # A folder that is its own ancestor is reached through a link that would never end.
            if (here := (status.st_dev, status.st_ino)) in above:
                say(path, "link loop", "a symbolic link to a folder above it")
                return
            entries = list(os.scandir(path))
        except OSError as error:
            say(path, "unreadable folder", error.strerror or str(error))
            return
        for entry in entries:
            try:
                is_folder = entry.is_dir()
                is_file = entry.is_file()
                if entry.is_symlink():
                    Path(entry.path).stat()
            except OSError as error:
                say(
                    entry.path,
                    "link loop" if error.errno == errno.ELOOP else "unreadable",
                    error.strerror or str(error),
                )
                continue
            if is_folder:
                yield from enter(entry.path, above | {here})
            elif is_file:
                yield Path(entry.path)
            else:
                say(entry.path, "not a photo", "neither a file nor a folder")

    yield from enter(folder, frozenset())


def _safe(identity: str) -> str:
    """An identity as a relative path: no step upwards, no control character."""
    parts = [_UNSAFE.sub("_", part) for part in identity.split("/")]
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)
