"""Boards that edgeface knows: what they are made of, each value beside its source."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeface_runtime import UsageError

FOLDER = Path(__file__).parent
DEFAULT = "rpi-4b"
"""What ``rpi`` means on a host that is no Raspberry Pi."""
_MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True, kw_only=True)
class BoardProfile:
    """One board at one clock (boards/<name>.toml)."""

    name: str
    board: str
    model: str
    """How /proc/device-tree/model begins there; empty for a second clock of the same board."""
    soc: str
    core: str
    cores: int
    clock_mhz: int
    l1d_kib: int
    l1i_kib: int
    l2_kib: int
    l3_kib: int
    """0: none."""
    memory_mib: tuple[int, ...]
    """One entry a variant sold."""
    features: str
    """Of the processor, in the words of /proc/cpuinfo."""
    system: str
    python: tuple[str, ...]
    wheels: tuple[str, ...]
    """Engines with a wheel for the board's 64-bit system."""
    threads: int
    """Recommended for one model."""
    sources: Mapping[str, str]
    """Field → where its value comes from."""

    def as_json(self) -> dict[str, object]:
        """The profile as in ``edgeface devices --json``."""
        fields = {key: getattr(self, key) for key in self.sources}
        lists = {key: list(value) for key, value in fields.items() if isinstance(value, tuple)}
        return {"name": self.name} | fields | lists | {"sources": dict(self.sources)}


@cache
def profiles() -> dict[str, BoardProfile]:
    """Name → profile, in the order of the names."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.toml"), key=lambda path: path.stem)}


def find_profile(name: str, *, model: Path = _MODEL) -> BoardProfile:
    """The board of that name, hyphens or not; ``rpi`` is this host where it is a known board, else the 4B.

    Raises:
        UsageError: no such board; shows the nearest names.
    """
    known = profiles()
    if name == "rpi":
        return _host(model) or known[DEFAULT]
    for board in known.values():
        if board.name.replace("-", "") == name.replace("-", ""):
            return board
    near = difflib.get_close_matches(name.lower(), ["rpi", *known], n=3, cutoff=0.4) or ["rpi", *known]
    raise UsageError(f"no board is called {name!r}; near it: {', '.join(near)} (edgeface devices lists all)")


def _host(model: Path) -> BoardProfile | None:
    if not model.exists():
        return None
    return profile_of(model.read_text(encoding="utf-8", errors="replace").strip("\0\n "), None)


def profile_of(model: str, mhz: int | None) -> BoardProfile | None:
    """The board that calls itself so in /proc/device-tree/model, at the clock that is nearest; None: not known.

    Args:
        model: without the closing zero byte.
        mhz: its highest clock; None: that of the first profile of the board.
    """
    named = next((board for board in profiles().values() if board.model and model.startswith(board.model)), None)
    if named is None or mhz is None:
        return named
    same = [board for board in profiles().values() if board.board == named.board]
    return min(same, key=lambda board: abs(board.clock_mhz - mhz))


def _read(path: Path) -> BoardProfile:
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    values = {key: entry["value"] for key, entry in entries.items()}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return BoardProfile(name=path.stem, sources={key: entry["source"] for key, entry in entries.items()}, **values)
