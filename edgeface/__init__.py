"""On-device face recognition: what an app needs, offered from ``edgeface_runtime``, each name when it is asked for."""

import typing

import edgeface_runtime
from edgeface_runtime.errors import renamed as _renamed

if typing.TYPE_CHECKING:
    from edgeface_runtime import *  # noqa: F403

__version__ = edgeface_runtime.__version__

__all__: list[str] = []
__all__ += edgeface_runtime.__all__


def __getattr__(name: str) -> object:
    if name not in __all__:
        return _renamed(__name__, name)
    value = globals()[name] = getattr(edgeface_runtime, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
