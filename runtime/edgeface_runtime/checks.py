"""Checks of what a caller hands over: a refusal is one line that says what came and what is wanted."""

from __future__ import annotations

import contextlib
import errno
import numbers
import operator
import os
import reprlib
import stat
from pathlib import Path
from typing import Literal, TypeAlias

from edgeface_runtime.errors import UsageError

Color: TypeAlias = Literal["rgb", "bgr"]
"""The order of an array's channels; a fourth one, of opacity or padding, comes after them."""


def number(name: str, value: object) -> float:
    """``value`` as a float.

    Raises:
        UsageError: it is no number; text that reads like one is none.
    """
    if isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):
            return float(value)
    raise UsageError(f"{name} is {described(value)}; it must be a number")


def whole(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """``value`` as an int of at least ``least`` and, where given, at most ``most``.

    Raises:
        UsageError: it is no whole number, or out of these bounds.
    """
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} is {described(value)}; it must be a whole number") from None
    if count < least:
        raise UsageError(f"{name} is {count}; it must be at least {least}")
    if most is not None and count > most:
        raise UsageError(f"{name} is {count}; it must be at most {most}")
    return count


def path_of(name: str, value: object) -> Path:
    """``value`` as a path.

    Raises:
        UsageError: it is neither text nor a path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} is {described(value)}; it must be a path")
    return Path(value)


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuses a pipe, a device or a socket before it is opened, which may wait forever.

    Raises:
        OSError: it is one of these, or nothing that can be looked at; ``strerror`` says it.
    """
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "a pipe, a device or a socket, not a file", os.fspath(path))


def shown(path: str | os.PathLike[str]) -> str:
    r"""A path as text that is valid UTF-8: bytes of a name that are not show as ``\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_bgr(color: Color) -> bool:
    """True for ``"bgr"``.

    Raises:
        UsageError: neither that nor ``"rgb"``.
    """
    if color not in ("rgb", "bgr"):
        raise UsageError(f'color is {described(color)}; it must be "rgb" or "bgr"')
    return color == "bgr"


def described(value: object) -> str:
    """A value that does not fit, with its type, in a few words."""
    if value is None:
        return "None"
    if isinstance(value, (str, bytes, int, float)):
        return f"{reprlib.repr(value)} ({type(value).__name__})"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
