"""Which of the package's models a gallery belongs to, and how it goes on beside a newer version of that model."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

from edgeface_runtime.engines import is_installed
from edgeface_runtime.errors import EdgefaceWarning
from edgeface_runtime.gallery.database import Binding, binding_of
from edgeface_runtime.images import shown
from edgeface_runtime.model import Model, Shipped, shipped
from edgeface_runtime.protocols import FaceEncoder


def shipped_for(binding: Binding) -> Shipped | None:
    """The file of the package's whose embeddings fit, one that an installed engine opens where there is; else None."""
    digest = (binding.parent_sha256 or binding.file_sha256).encode()
    for model in sorted(shipped(), key=lambda one: not is_installed(one.file)):
        # A contract takes long to read on a small board, and nearly all files are of another model.
        if digest in model.file.read_bytes() and binding.fits(binding_of(model)):
            return model
    return None


def named(binding: Binding) -> Binding:
    """The binding under the name that the package has for its model, ``mobilefacenet-0.2``."""
    return _renamed(binding, shipped_for(binding))


def follow(path: Path, binding: Binding, recognizer: FaceEncoder) -> None:
    """Lets a recognizer whose model is not the gallery's take the package's that is, where it was told none.

    Warns:
        EdgefaceWarning: that is an older version; the line says so, and the two ways on.
    """
    take = getattr(recognizer, "follow_model", None)
    model = shipped_for(binding) if take else None
    if take and model and take(model.file) and model.newest:
        warnings.warn(
            f"{shown(path)}: belongs to {model.name}, an older version, which is taken: name it (--model {model.name}) "
            f"or enroll the photos anew with {model.newest} (edgeface gallery move)",
            EdgefaceWarning,
            stacklevel=3,
        )


def misfit(path: Path, binding: Binding, model: Model) -> str:
    """What to say of a gallery and a model that do not fit, and what to do."""
    own = shipped_for(binding)
    mine, its = _renamed(binding, own).told_from(named(binding_of(model)))
    return (
        f"{shown(path)}: made with {mine}, not with {its}, and their embeddings cannot be compared: name the first "
        f"(--model {own.name if own else 'FILE'}), or enroll the photos anew (edgeface gallery move)"
    )


def _renamed(binding: Binding, model: Shipped | None) -> Binding:
    return replace(binding, name=model.name) if model else binding
