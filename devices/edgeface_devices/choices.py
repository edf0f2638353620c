"""Which file to take on a board, for one face or for the whole way from a photo to names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeface_devices.bench.scenes import SCENES
from edgeface_devices.measurement import Json, Measurement, by_board
from edgeface_devices.way import NETS, PhotoWay, Setting
from edgeface_runtime import UsageError

CHOSEN = next(iter(SCENES))
"""The scene that a budget of the whole way is held against."""
LONGEST = 30
"""Frames from look to look that a budget may take, at most: a second of most cameras."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The file to take on one board, or the one that misses by least."""

    device: str
    row: Measurement | None
    """None: no row of the board has what is asked for."""
    fits: bool
    reason: str
    setting: Setting | None = None
    """Over the whole way: how faces are looked for."""
    interval: int | None = None
    """Over the whole way: frames from look to look."""

    @property
    def line(self) -> str:
        """The choice as a line for a person."""
        if self.row is None:
            return f"{self.device}: {self.reason}"
        verb = "take" if self.fits else "nothing fits; nearest is"
        return f"{self.device}: {verb} {self.row.path} on {self.row.engine}, {self.reason}"

    def to_json(self) -> Json:
        """An element of ``choices`` in ``bench --json``."""
        row = self.row
        where = {"path": row and str(row.path), "engine": row and row.engine}
        answer: Json = {"device": self.device, "fits": self.fits, **where, "reason": self.reason}
        return answer if self.setting is None else answer | vars(self.setting) | {"interval": self.interval}


def check_demands(budget_ms: float | None, min_accuracy: float | None) -> None:
    """Raises UsageError unless the budget is above 0 and the accuracy from 0 to 1, where they are given."""
    if budget_ms is not None and not budget_ms > 0:
        raise UsageError(f"the budget is {budget_ms:g} ms; it must be above 0")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise UsageError(f"the least accuracy is {min_accuracy:g}; it is a share, from 0 to 1")


def choose(
    rows: Sequence[Measurement], *, budget_ms: float | None = None, min_accuracy: float | None = None
) -> tuple[Choice, ...]:
    """For each board the file to take, in the order of the boards.

    The time that counts is ``careful_ms``. With a budget alone the most accurate within it is taken,
    else the fastest (of those that keep the least accuracy). A row of an engine that does not open the file's format,
    which an estimate can have, is never taken.

    Args:
        rows: of any number of boards.
        budget_ms: the most that one face may take.
        min_accuracy: the least accuracy, 0 to 1.

    Raises:
        UsageError: the budget is not above 0, or the accuracy is not from 0 to 1.
    """
    check_demands(budget_ms, min_accuracy)
    return tuple(_choose(its, budget_ms, min_accuracy) for its in by_board(rows).values())


def _choose(rows: Sequence[Measurement], budget_ms: float | None, min_accuracy: float | None) -> Choice:
    asked = [row for row in rows if row.careful_ms is not None and row.runs]
    if min_accuracy is not None:
        asked = [row for row in asked if row.accuracy]
    device = rows[0].device or ""
    if not asked:
        needed = "a time" if min_accuracy is None else "both a time and an accuracy"
        return Choice(device=device, row=None, fits=False, reason=f"no row has {needed}")

    def overshoot(row: Measurement) -> float:
        return 0.0 if budget_ms is None else max(0.0, _ms(row) / budget_ms - 1)

    def shortfall(row: Measurement) -> float:
        return 0.0 if min_accuracy is None else max(0.0, min_accuracy - _share(row))

    fitting = [row for row in asked if not overshoot(row) and not shortfall(row)]
    if fitting:
        by_accuracy = budget_ms is not None and min_accuracy is None
        best = min(fitting, key=lambda e: (-_share(e) if by_accuracy else 0.0, _ms(e)))
        return Choice(device=device, row=best, fits=True, reason=_told(best))
    # One broken demand is nearer than two; a share of errors weighs as much as a share of the budget.
    near = min(asked, key=lambda e: (bool(overshoot(e)) + bool(shortfall(e)), overshoot(e) + shortfall(e), _ms(e)))
    return Choice(device=device, row=near, fits=False, reason=_told(near))


def _ms(row: Measurement) -> float:
    assert row.careful_ms is not None
    return row.careful_ms


def _share(row: Measurement) -> float:
    accuracy = row.accuracy
    return accuracy.value if accuracy else 0.0


def _told(row: Measurement) -> str:
    p50 = row.p50_ms
    assert p50 is not None
    end = "upper end of the estimate" if p50.interval else "p90" if row.p90_ms else "median"
    accuracy = row.accuracy
    told = f", accuracy {accuracy.value:.4f} ({row.accuracy_kind})" if accuracy else ", accuracy not known"
    return f"{_ms(row):.1f} ms ({end}){told}"


def choose_way(rows: Sequence[Measurement], budget_ms: float, min_accuracy: float | None) -> Choice:
    """Of one board the file, the detector and the frames from look to look that keep the budget a frame.

    The most accurate file first, then the fewest frames between two looks, then the smaller face that is looked for,
    then the shorter time. The time that counts is the careful one, with one face in the picture.

    Args:
        rows: of one board.
        budget_ms: the most that a frame may take, on average.
        min_accuracy: the least accuracy, 0 to 1.
    """
    device = rows[0].device or ""
    asked = [row for row in rows if min_accuracy is None or (row.accuracy and row.accuracy.value >= min_accuracy)]
    found = list(_options(asked))
    if not found:
        return Choice(device=device, row=None, fits=False, reason=_unknown(rows))
    fitting = [option for option in found if option[3] <= budget_ms]
    if not fitting:
        row, way, interval, ms = min(found, key=lambda option: option[3])
    else:
        row, way, interval, ms = min(
            fitting,
            key=lambda option: (
                -(option[0].accuracy.value if option[0].accuracy else 0.0),
                option[2],
                option[1].setting.min_face or 0.0,
                option[3],
            ),
        )
    accuracy = f", accuracy {row.accuracy.value:.4f} ({row.accuracy_kind})" if row.accuracy else ""
    looks = "every frame looked at" if interval == 1 else f"one frame in {interval} looked at"
    return Choice(
        device=device,
        row=row,
        fits=bool(fitting),
        reason=f"{way.setting}, {looks}: {ms:.1f} ms a frame ({_end(way)}, one face){accuracy}",
        setting=way.setting,
        interval=interval,
    )


def _end(way: PhotoWay) -> str:
    """Which of the parts' times is counted."""
    timed = [part for part in way.parts.values() if part.p50_ms]
    return "p90" if all(part.p90_ms for part in timed) else "p50"


def _options(rows: Sequence[Measurement]) -> Iterator[tuple[Measurement, PhotoWay, int, float]]:
    for row in rows:
        for way in row.photo:
            for interval in range(1, LONGEST + 1):
                ms = way.frame_ms(interval, careful=True)
                if ms is not None and way.scene == CHOSEN:
                    yield row, way, interval, ms


def _unknown(rows: Sequence[Measurement]) -> str:
    nets = [way.part(NETS).p50_ms for row in rows for way in row.photo if way.scene == CHOSEN]
    known = [ms for ms in nets if ms is not None]
    if not known:
        return "no time of the whole way is known"
    least = min(known, key=lambda ms: ms.value)
    return f"no time of the whole way is known; its nets alone take {least:.0f} ms"
