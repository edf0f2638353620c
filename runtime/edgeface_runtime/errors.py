"""What can go wrong, as one tree.

::

    EdgefaceError                 one clear line for a person; the command line exits with 2
    ├── UsageError                an option, a path or a folder that does not fit
    │   └── MissingExtraError     a package that an extra of edgeface brings
    ├── ImageError                a photo that cannot be read or used
    │   └── NoFaceError           a photo that shows no face, where one is needed
    ├── GalleryError              a gallery that cannot be opened, changed or used with this model
    │   └── EnrollmentError       a photo that is not good enough to know somebody by
    └── ModelError                a model file that cannot be opened or trusted
        └── ContractError         its contract is absent, broken or too new
"""

from __future__ import annotations

import sys
import warnings


class EdgefaceError(Exception):
    """Base of every error that a user can mend: says what, where and what to do, in one line."""


class UsageError(EdgefaceError):
    """An option, a path or a folder does not fit."""


class MissingExtraError(UsageError):
    """A package is absent that one of edgeface's extras brings."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; it comes with: pip install 'edgeface[{extra}]'")
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.package, self.extra)


class EdgefaceWarning(UserWarning):
    """What works, and should be done otherwise."""


class ImageError(EdgefaceError):
    """A photo cannot be read or used."""


class NoFaceError(ImageError):
    """A photo shows no face, where one is needed."""


class GalleryError(EdgefaceError):
    """A gallery cannot be opened or changed, or holds another model's embeddings."""


class EnrollmentError(GalleryError):
    """A photo is not good enough to know somebody by, or looks like somebody else; ``force`` takes it."""


class ModelError(EdgefaceError):
    """A model file cannot be opened or trusted."""


class ContractError(ModelError):
    """A model file's contract is absent, broken or of a newer schema."""


_RENAMED = {
    "EnrolmentError": "EnrollmentError",
    "Moment": "FrameResult",
    "Pace": "TrackingConfig",
}


def renamed(module: str, name: str) -> type:
    """What the old name ``name`` of a module stands for; warns whoever asked the module for it.

    Raises:
        AttributeError: it is no old name either.
    """
    new: type | None = getattr(sys.modules[module], _RENAMED[name], None) if name in _RENAMED else None
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    message = f"{name} is called {new.__name__}; the old name will be removed in edgeface 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return new


def __getattr__(name: str) -> type:
    return renamed(__name__, name)
