"""Checks of what comes in: of what a caller hands over, and of documents, which are read here once for all.

JSON and TOML are checked for size and depth and built into the annotated types of dataclasses and TypedDicts. What
does not fit is said in one line: where, what was found and what is wanted. A library for this (msgspec, pydantic) would
be the base install's only compiled package beside numpy, Pillow and the engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import math
import numbers
import operator
import os
import re
import reprlib
import stat
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar, cast

from edgeface_runtime.errors import EdgefaceError, UsageError

Color: TypeAlias = Literal["rgb", "bgr"]
"""The order of an array's channels; a fourth one, of opacity or padding, comes after them."""
MOST = 4_000_000
"""Bytes of a JSON or TOML document; the largest that edgeface writes, a contract or a bench of ten files, is 0.1 MB."""
_DEPTH = 32
"""Of lists and objects in each other; edgeface writes 7."""

T = TypeVar("T")
Failure = type[EdgefaceError]


@dataclass(frozen=True)
class Span:
    """Ends of a number, for ``Annotated[float, Span(0)]``."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """True: ``low`` itself is too low."""

    def holds(self, value: float) -> bool:
        """Whether a number lies within."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"{'above' if self.above else 'at least'} {self.low:g}"
        high = "" if self.high == math.inf else f"at most {self.high:g}"
        return " and ".join(filter(None, (low, high)))


Positive = Annotated[float, Span(0, above=True)]
Share = Annotated[float, Span(0, 1)]
Count = Annotated[int, Span(0, 2**53)]


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """A regular file of at most ``most`` bytes.

    Raises:
        OSError: no such file, no regular one, or larger; ``strerror`` says it.
    """
    require_regular(path)
    with path.open("rb") as file:
        # Not by reading ``most``: so much memory would be asked for, whatever the file's size.
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most / 1e6:g} MB, which no such file is", str(path))
        return file.read()


def read_text(path: Path, most: int = MOST, *, encoding: str = "utf-8") -> str:
    """As ``read_bytes``, decoded.

    Raises:
        OSError: as ``read_bytes``, or not of that encoding; ``strerror`` says it.
    """
    try:
        return read_bytes(path, most).decode(encoding)
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"not {encoding[:5].upper()} text at byte {error.start}", str(path)) from error


def parse_json(text: str) -> object:
    """A JSON document without NaN, infinity, text that no file can hold, or depth without end.

    Raises:
        ValueError: it is none.
    """
    try:
        document = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("too many lists and objects in each other") from error
    _check_depth(document)
    return cast(object, document)


def parse_toml(text: str) -> dict[str, object]:
    """A TOML document, under the same conditions.

    Raises:
        ValueError: it is none.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("too many lists and tables in each other") from error
    _check_depth(document)
    return document


def read_document(path: Path, kind: type[T], what: str, *, fails: Failure = UsageError, most: int = MOST) -> T:
    """A JSON file, or a TOML file by its suffix, as an instance of a dataclass or TypedDict.

    Args:
        path: the file.
        kind: what is wanted; of ``object`` any document.
        what: the document's name in errors, such as ``card``.
        fails: the class of errors.
        most: bytes.

    Raises:
        EdgefaceError: of the class ``fails``: it cannot be read, is no document, or not one of that kind.
    """
    form, parse = ("TOML", parse_toml) if path.suffix == ".toml" else ("JSON", parse_json)
    try:
        document = parse(read_text(path, most))
    except OSError as error:
        is_text = error.errno != errno.EILSEQ
        raise fails(f"{shown(path)}: {'' if is_text else f'not {form}: '}{error.strerror or error}") from error
    except ValueError as error:
        raise fails(f"{shown(path)}: not {form}: {error}") from error
    try:
        return build(kind, document, what, fails=fails)
    except fails as error:
        raise fails(f"{shown(path)}: {error}") from error


def build(kind: type[T], value: object, where: str, *, fails: Failure = UsageError) -> T:
    """``value`` of a parsed document as an instance of the annotated type ``kind``; keys that are not known are kept
    in TypedDicts and passed over in dataclasses.

    Raises:
        EdgefaceError: of the class ``fails``: it is of another type, or out of range.
    """
    return cast(T, _Builder(fails).build(kind, value, where))


class _Builder:
    def __init__(self, fails: Failure) -> None:
        self.fails = fails

    def build(self, kind: object, value: object, where: str) -> object:
        if kind in (str, float, int):  # most values of a long document: the way round is dear
            return self._plain(cast(type, kind), value, where)
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if kind in (object, typing.Any):
            return value
        if origin is Annotated:
            built = self.build(args[0], value, where)
            for span in args[1:]:
                if built is not None and not span.holds(cast(float, built)):
                    raise self.fails(f"{where} is {described(built)}; it must be {span}")
            return built
        if origin is typing.NotRequired:
            return self.build(args[0], value, where)
        if origin in (typing.Union, types.UnionType):
            return None if value is None else self.build(args[0], value, where)
        if origin is typing.Literal:
            if not isinstance(value, (str, int)) or value not in args:
                raise self.fails(f"{where} is {described(value)}; it must be {' or '.join(map(str, args))}")
            return value
        if origin in (tuple, list):
            return self._sequence(origin, args, value, where)
        if origin in (dict, Mapping) or kind is dict:
            entries = self._object(value, where)
            return (
                {key: self.build(args[1], item, f"{where}.{_key(key)}") for key, item in entries.items()}
                if args
                else entries
            )
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)):
            return self._record(kind, self._object(value, where), where)
        return self._plain(cast(type, kind), value, where)

    def _object(self, value: object, where: str) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self.fails(f"{where} is not an object: it is {described(value)}")
        return value

    def _sequence(self, kind: type, args: tuple[object, ...], value: object, where: str) -> object:
        if not isinstance(value, list):
            raise self.fails(f"{where} is not a list: it is {described(value)}")
        endless = kind is list or args[-1] is Ellipsis
        if not endless and len(value) != len(args):
            raise self.fails(f"{where} has {len(value)} values, not {len(args)}")
        return kind(self.build(args[0], item, f"{where}[{place}]") for place, item in enumerate(value))

    def _record(self, kind: type, entries: dict[str, object], where: str) -> object:
        hints, needed = _entries(kind)
        for name in needed:
            if name not in entries:
                raise self.fails(f"{where} has no {name!r}")
        built = {
            name: self.build(hint, entries[name], f"{where}.{name}") for name, hint in hints.items() if name in entries
        }
        return entries | built if typing.is_typeddict(kind) else kind(**built)

    def _plain(self, kind: type, value: object, where: str) -> object:
        accepted = {float: (int, float), Path: (str,)}.get(kind, (kind,))
        fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
        if not fits:
            raise self.fails(f"{where} is not of type {kind.__name__}: it is {described(value)}")
        try:
            made = kind(value)
        except OverflowError as error:
            raise self.fails(f"{where} is too large") from error
        if kind is float and not math.isfinite(made):
            raise self.fails(f"{where} is {made}, not a finite number")
        if kind is Path and "\0" in str(made):
            raise self.fails(f"{where} is no path: it holds a zero byte")
        return made


@functools.cache
def _entries(kind: type) -> tuple[dict[str, object], list[str]]:
    """The annotations of a dataclass or TypedDict, and the names that must be there."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if typing.is_typeddict(kind):
        return hints, [name for name, hint in hints.items() if typing.get_origin(hint) is not typing.NotRequired]
    missing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return hints, [item.name for item in fields if item.default is missing and item.default_factory is missing]


def _key(name: str) -> str:
    return name if name.isprintable() and len(name) < 60 else reprlib.repr(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _check_depth(document: object) -> None:
    level: list[object] = [document]
    for _ in range(_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, float):  # the most frequent, so first
                if not math.isfinite(value):
                    raise ValueError(f"{value} is not a finite number")
            elif isinstance(value, str):
                if not value.isascii() and re.search("[\ud800-\udfff]", value):
                    raise ValueError("text with half a character (a lone surrogate)")
            elif isinstance(value, dict):
                below += value.values()
                below += value
            elif isinstance(value, list):
                below += value
        level = below
        if not level:
            return
    raise ValueError(f"more than {_DEPTH} lists and objects in each other")


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


def require_folder(path: Path) -> None:
    """Raises UsageError unless it is a folder, and says which it is: a file, or nothing."""
    if not path.is_dir():
        raise UsageError(f"{shown(path)}: {'is a file, not a folder' if path.exists() else 'no such folder'}")


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
