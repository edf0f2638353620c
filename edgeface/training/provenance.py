"""What a model has learnt from beside its photos, and what that allows: for ``run.json``, the contract and the card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeface.data.table import read_card
from edgeface.embedder import Embedder
from edgeface.training.checkpoints import Checkpoint
from edgeface.training.init.start import own_checkpoint
from edgeface_runtime import UsageError

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One source: weights to start from, a teacher, or unlabeled photos."""

    role: str
    """``init``, ``teacher``, ``guide`` or ``unlabeled``."""
    name: str
    """As it was given."""
    licence: str = UNKNOWN
    sha256: str | None = None
    """Of the file."""


def origins(
    init: str | None,
    teachers: Sequence[tuple[Path, Embedder]] = (),
    guide: Checkpoint | None = None,
    unlabeled: Path | None = None,
) -> list[Origin]:
    """Everything that a run learns from beside its photos, with the licence that each of them carries."""
    found = []
    if init is not None:
        ours = own_checkpoint(init)
        found.append(
            Origin(role="init", name=init)
            if ours is None
            else Origin(role="init", name=init, licence=ours.contract.licence, sha256=ours.sha256)
        )
    for path, teacher in teachers:
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found.append(Origin(role="teacher", name=str(path), licence=teacher.contract.licence, sha256=digest))
    if guide is not None:
        found.append(Origin(role="guide", name=str(guide.path), licence=guide.contract.licence, sha256=guide.sha256))
    if unlabeled is not None:
        found.append(Origin(role="unlabeled", name=str(unlabeled), licence=licence_of_photos(unlabeled)))
    return found


def licence_of_photos(folder: Path, given: str | None = None) -> str:
    """What was given; else what the card of a prepared folder says."""
    if given is not None:
        return given
    try:
        return str(read_card(folder)["licence"])
    except (UsageError, KeyError):
        return UNKNOWN


def whole_licence(photos: str, sources: Iterable[Origin]) -> str:
    """The licences of the photos and of all sources in one line, each with where it comes from."""
    parts = [f"{origin.role} {origin.name}: {origin.licence}" for origin in sources]
    return "; ".join([f"photos: {photos}", *parts]) if parts else photos
