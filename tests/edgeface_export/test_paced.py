"""How long a phase still takes is said every ten seconds, and not before."""

from __future__ import annotations

from edgeface_export.paced import paced


def test_the_time_left_is_said_every_ten_seconds():
    now, said = [0.0], list[str]()
    taken = []
    for item in paced(range(12), "layers tried", say=said.append, clock=lambda: now[0]):
        taken.append(item)
        now[0] += 4
    assert taken == list(range(12))
    assert said == [
        "layers tried: 3 of 12, about 36 s left",
        "layers tried: 6 of 12, about 24 s left",
        "layers tried: 9 of 12, about 12 s left",
    ]


def test_a_short_phase_says_nothing():
    said = list[str]()
    assert list(paced("abc", "letters", say=said.append)) == ["a", "b", "c"]
    assert not said
