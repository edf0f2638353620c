"""What a Raspberry Pi says of its clock, temperature and power supply."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from edgeface_runtime.checks import Count, Positive, Span, build
from edgeface_runtime.errors import UsageError

# Bit of `vcgencmd get_throttled` → what it says; 16 bits higher: has been so since the board started
# (https://www.raspberrypi.com/documentation/computers/os.html#get_throttled).
BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_START = 16


@dataclass(frozen=True, kw_only=True)
class BoardState:
    """One reading. None: the machine does not say."""

    governor: str | None
    mhz: int | None
    max_mhz: int | None
    celsius: float | None
    throttled: int | None
    """Bits of ``vcgencmd get_throttled``."""

    def to_json(self) -> dict[str, object]:
        """The reading as in ``bench --json``; ``throttled`` in hexadecimal as vcgencmd says it."""
        return vars(self) | {"throttled": None if self.throttled is None else hex(self.throttled)}

    @classmethod
    def from_json(cls, entries: object, where: str = "state") -> BoardState:
        """What ``to_json`` gave; other keys are passed over.

        Raises:
            UsageError: it is something else; names the key.
        """
        found = build(_Entries, entries, where)
        bits = found.throttled
        if bits is not None and not re.fullmatch("0x[0-9a-fA-F]{1,8}", bits):
            raise UsageError(f"{where}.throttled is {bits!r}; it must be hexadecimal, as 0x50000")
        return cls(**vars(found) | {"throttled": None if bits is None else int(bits, 16)})


@dataclass(frozen=True, kw_only=True)
class _Entries:
    governor: str | None
    mhz: Count | None
    max_mhz: Count | None
    celsius: Annotated[float, Span(-273, 1000)] | None
    throttled: str | None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which a board was measured."""

    before: BoardState
    after: BoardState
    throttled: tuple[str, ...]
    """What held it back meanwhile, in words."""

    def to_json(self) -> dict[str, object]:
        """``state`` in ``bench --json``."""
        states = {"before": self.before.to_json(), "after": self.after.to_json()}
        return states | {"throttled": list(self.throttled)}

    @classmethod
    def from_json(cls, entries: object, where: str = "state") -> Conditions:
        """What ``to_json`` gave.

        Raises:
            UsageError: it is something else; names the key.
        """
        found = build(dict[str, object], entries, where)
        before, after = (BoardState.from_json(found.get(key), f"{where}.{key}") for key in ("before", "after"))
        words = build(tuple[str, ...], found.get("throttled"), f"{where}.throttled")
        return cls(before=before, after=after, throttled=words)


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """One of a sustained measurement."""

    minutes: float
    """Since the first began."""
    medians_ms: tuple[float, ...]
    """One a file."""
    state: BoardState

    def to_json(self) -> dict[str, object]:
        """An element of ``sustained`` in ``bench --json``."""
        return {"minutes": self.minutes, _MEDIANS: list(self.medians_ms)} | self.state.to_json()

    @classmethod
    def from_json(cls, entries: Mapping[str, object], where: str = "sustained") -> Repetition:
        """What ``to_json`` gave.

        Raises:
            UsageError: it is something else; names the key.
        """
        medians = build(tuple[Positive, ...], entries.get(_MEDIANS), f"{where}.{_MEDIANS}")
        minutes = build(float, entries.get("minutes"), f"{where}.minutes")
        return cls(minutes=minutes, medians_ms=medians, state=BoardState.from_json(entries, where))


_MEDIANS = "p50_ms"


def read_state(root: Path = Path("/")) -> BoardState:
    """The state now, from /sys and vcgencmd."""
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    millicelsius = _number(root / "sys/class/thermal/thermal_zone0/temp")
    return BoardState(
        governor=_text(frequency / "scaling_governor"),
        mhz=_mhz(frequency / "scaling_cur_freq"),
        max_mhz=_mhz(frequency / "cpuinfo_max_freq"),
        celsius=None if millicelsius is None else millicelsius / 1000,
        throttled=_throttled(),
    )


def throttling(states: Sequence[BoardState]) -> list[str]:
    """What held the board back between the first reading and the last, in words; empty: nothing that is known.

    Counts what a reading says of its own moment, and what the last one says of the past that the first did not.
    """
    bits = [state.throttled or 0 for state in states]
    new = bits[-1] & ~bits[0] if bits else 0
    seen = new >> _SINCE_START
    for value in bits:
        seen |= value
    return [word for bit, word in BITS.items() if seen >> bit & 1]


def _throttled() -> int | None:
    if shutil.which("vcgencmd") is None:
        return None
    said = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"throttled=(0x[0-9a-fA-F]+)", said)
    return int(found[1], 16) if found else None


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return None


def _number(path: Path) -> float | None:
    with contextlib.suppress(ValueError):
        return float(_text(path) or "")
    return None


def _mhz(path: Path) -> int | None:
    kilohertz = _number(path)
    return None if kilohertz is None else round(kilohertz / 1000)
