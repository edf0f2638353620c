from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeface_runtime import (
    Face,
    FaceRecognizer,
    Frame,
    FrameResult,
    Gallery,
    GalleryError,
    ImageError,
    TrackingConfig,
    UsageError,
    in_turn,
    watch,
)
from edgeface_runtime.testing import fake_photo, fake_recognizer

EMPTY = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture
def family(path: Path, fake: FaceRecognizer) -> Iterator[Gallery]:
    with Gallery.open(path, fake) as gallery:
        for name, person in (("Ada", 1), ("Bea", 2)):
            gallery.enroll(name, fake_photo(person))
        yield gallery


def clips(*scenes: tuple[int | None, int]) -> list[np.ndarray]:
    """Frames of one person or nobody at a time: ``(person, count)`` in turn."""
    return [
        EMPTY if person is None else fake_photo(person, take)
        for person, count in scenes
        for take in range(1, count + 1)
    ]


def said(results: list[FrameResult]) -> list[tuple[int, str, int, str | None]]:
    return [(m.frame.index, e.kind, e.person.track, e.person.name) for m in results for e in m.events]


def test_somebody_comes_is_named_and_leaves(fake: FaceRecognizer, family: Gallery):
    frames = clips((None, 2), (1, 10), (None, 40), (300, 20))
    results = list(watch(in_turn(frames, fps=25), fake, family, config=TrackingConfig(every=2)))
    # Looked for in every second frame, and in each while somebody is new: seen in 2 and 3, named by the looks in 3, 4
    # and 5. The last detection is in 11; the first one more than a second later is in 37. The stranger is there from
    # the second detection on, and unknown after five looks.
    assert said(results) == [
        (3, "appeared", 1, None),
        (5, "named", 1, "Ada"),
        (37, "left", 1, "Ada"),
        (54, "appeared", 2, None),
        (58, "unknown", 2, None),
    ]
    assert [result.frame.index for result in results] == list(range(len(frames)))
    assert [result.frame.index for result in results if result.people] == [*range(3, 37), *range(54, 72)]
    stranger = results[-1].people[0]
    assert (stranger.name, stranger.looks, stranger.box) == (None, 5, (0, 0, 64, 64))
    assert stranger.score is not None
    assert stranger.score < fake.threshold(1e-2, 2).value


def test_the_same_frames_give_the_same_moments(fake: FaceRecognizer, family: Gallery):
    frames = [np.hstack([fake_photo(1, t), fake_photo(2 if t < 20 else 9, t)]) for t in range(40)]
    runs = [[(m.people, m.events) for m in watch(in_turn(frames), fake_recognizer(), family)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert {person.name for person in runs[0][19][0]} == {"Ada", "Bea"}


class Scripted:
    """A detector that finds given boxes, one list at a time, and counts how often it is asked."""

    def __init__(self, boxes: list[list[tuple[float, float]]], side: float = 64) -> None:
        self.boxes, self.side, self.asked = iter(boxes), side, 0

    def detect(self, image: np.ndarray) -> list[Face]:
        self.asked += 1
        (model,) = fake_recognizer().detector.detect(fake_photo(0))
        scale = np.float32(self.side / 64)
        return [
            replace(
                model,
                box=model.box * scale + np.float32([x, y, x, y]),
                landmarks=model.landmarks * scale + np.float32([x, y]),
            )
            for x, y in next(self.boxes)
        ]


def scripted(detector: Scripted) -> FaceRecognizer:
    return FaceRecognizer(fake_recognizer().model, detector)


def test_boxes_move_between_detections(family: Gallery):
    """A face that moves 2 pixels a frame, looked for in every third: in between it is where it really is.

    It is too small for a look, so that nothing but its being new at first asks for more.
    """
    looked_for = [0, 2, *range(5, 30, 3)]
    detector = Scripted([[(2.0 * index, 0.0)] for index in looked_for], 30)
    frames = in_turn([np.zeros((64, 200, 3), np.uint8)] * 30, fps=15)
    results = list(watch(frames, scripted(detector), family, config=TrackingConfig(every=3)))
    assert detector.asked == len(looked_for)
    for result in results[2:]:
        ((x0, _, x1, _),) = (person.box for person in result.people)
        assert (x0, x1) == pytest.approx((2 * result.frame.index, 2 * result.frame.index + 30), abs=1e-3)


def test_a_face_that_is_lost_stays_where_it_was_due(family: Gallery):
    at = [[(6.0 * i, 0.0)] for i in range(4)] + [[]] * 3
    frames = in_turn([np.zeros((64, 200, 3), np.uint8)] * 7, fps=10)
    results = list(watch(frames, scripted(Scripted(at)), family, config=TrackingConfig(every=1)))
    assert [result.people[0].box[0] for result in results[3:]] == pytest.approx([18, 24, 24, 24], abs=1e-3)


def test_two_who_cross_keep_their_tracks(family: Gallery):
    """They pass each other 30 pixels apart in height, and are found in any order."""
    at = [[(10.0 * i, 0.0), (200.0 - 10 * i, 30.0)] for i in range(21)]
    order = np.random.default_rng(0)
    shuffled = [[pair[i] for i in order.permutation(2)] for pair in at]
    frames = in_turn([np.zeros((128, 300, 3), np.uint8)] * 21)
    heights: dict[int, set[float]] = {}
    for result in watch(frames, scripted(Scripted(shuffled)), family, config=TrackingConfig(every=1)):
        for person in result.people:
            heights.setdefault(person.track, set()).add(round(person.box[1]))
    assert sorted(heights.values(), key=min) == [{0}, {30}]


def test_faces_are_looked_for_in_the_smaller_picture_and_known_by_the_larger(fake: FaceRecognizer, family: Gallery):
    """Of a camera that gives each frame in two sizes: where the small one shows a face, the large one says whose."""
    looked: list[tuple[int, ...]] = []

    class Watched(Scripted):
        def detect(self, image: np.ndarray) -> list[Face]:
            looked.append(image.shape)
            return super().detect(image)

    large = np.hstack([np.zeros((64, 64, 3), np.uint8), fake_photo(1)])
    small = np.zeros((32, 32, 3), np.uint8)
    detector = Watched([[(16.0, 0.0)]] * 9, 32)  # 4 times as wide in the large one, twice as high
    frames = (Frame(index, index / 10, large, small=small) for index in range(9))
    *_, last = watch(frames, scripted(detector), family, config=TrackingConfig(every=1))
    assert set(looked) == {small.shape}
    assert last.people[0].box == pytest.approx((64, 0, 192, 64))


def test_one_detection_alone_is_nobody(family: Gallery):
    at: list[list[tuple[float, float]]] = [[(0.0, 0.0)] if i == 3 else [] for i in range(60)]
    results = list(watch(in_turn([EMPTY] * 60), scripted(Scripted(at)), family, config=TrackingConfig(every=1)))
    assert said(results) == []
    assert not any(result.people for result in results)


LOOK_ALWAYS = TrackingConfig(every=1, look=0)


def test_one_look_without_a_name_hides_it_and_no_more(fake: FaceRecognizer, family: Gallery):
    results = list(watch(in_turn(clips((1, 6), (300, 1), (1, 10))), fake, family, config=LOOK_ALWAYS))
    assert [(kind, name) for _, kind, _, name in said(results)] == [("appeared", None), ("named", "Ada")]
    assert [result.frame.index for result in results[3:] if result.people[0].name != "Ada"] == [6]


def test_a_withdrawn_name_is_given_back_to_the_same_visit(fake: FaceRecognizer, family: Gallery):
    results = list(watch(in_turn(clips((1, 6), (300, 3), (1, 10))), fake, family, config=LOOK_ALWAYS))
    assert said(results) == [
        (1, "appeared", 1, None),
        (3, "named", 1, "Ada"),
        (7, "named", 1, None),
        (10, "named", 1, "Ada"),
    ]


def test_another_in_the_same_place_is_another_visit(fake: FaceRecognizer, family: Gallery):
    results = list(watch(in_turn(clips((1, 8), (2, 8))), fake, family, config=LOOK_ALWAYS))
    assert said(results) == [
        (1, "appeared", 1, None),
        (3, "named", 1, "Ada"),
        (8, "named", 1, None),
        (10, "left", 1, "Ada"),
        (10, "appeared", 2, None),
        (10, "named", 2, "Bea"),
    ]
    results = list(watch(in_turn(clips((1, 8), (300, 40))), fake, family, config=LOOK_ALWAYS))
    # Unknown once a second has gone with looks that do not give the name: the first one was in frame 8.
    assert said(results)[2:] == [
        (9, "named", 1, None),
        (33, "left", 1, "Ada"),
        (33, "appeared", 2, None),
        (33, "unknown", 2, None),
    ]


def test_few_looks_once_a_face_is_known(fake: FaceRecognizer, family: Gallery, monkeypatch: pytest.MonkeyPatch):
    """Embedded until it has a name, and then once every so many seconds."""
    embedded: list[int] = []
    embed = fake.embed
    monkeypatch.setattr(fake, "embed", lambda photo, faces: embedded.append(len(faces)) or embed(photo, faces))
    list(watch(in_turn(clips((1, 101))), fake, family, config=TrackingConfig(every=1, look=0.8)))
    # Looks in frames 1 to 3, then 23, 43, 63 and 83.
    assert sum(embedded) == 7


@pytest.mark.parametrize(
    ("odd", "looks"),
    [
        ({}, 3),
        ({20: []}, 4),  # missed once: the next detection gets a look
        ({20: [40.0], 21: [40.0]}, 5),  # a jump there, and back
        ({20: [0.0, 50.0]}, 4),  # somebody overlaps: they might be taken for each other
    ],
)
def test_what_is_at_odds_with_a_name_gets_a_look_at_once(
    family: Gallery, odd: dict[int, list[float]], looks: int, monkeypatch: pytest.MonkeyPatch
):
    """Ada's looks rest for an hour once she is named."""
    places = [odd.get(index, [0.0]) for index in range(30)]
    detector = Scripted([[(x, 0.0) for x in there] for there in places])
    recognizer, asked = scripted(detector), []
    embed = recognizer.embed
    monkeypatch.setattr(recognizer, "embed", lambda photo, faces: asked.append(len(faces)) or embed(photo, faces))
    photo = np.hstack([fake_photo(1), EMPTY])
    film = [np.roll(photo, int(there[0]) if there else 0, axis=1) for there in places]
    config = TrackingConfig(every=1, look=3600, overlap=0.1)
    for result in watch(in_turn(film, fps=10), recognizer, family, config=config):
        if result.frame.index < 20:
            before = sum(asked)
        assert sum(asked) <= looks
    assert (before, sum(asked)) == (3, looks)


@pytest.mark.parametrize(("side", "looks"), [(30, 0), (64, 5)])
def test_a_small_face_is_followed_and_not_recognised(family: Gallery, side: int, looks: int):
    detector = Scripted([[(0.0, 0.0)]] * 60, side)
    *_, last = watch(in_turn([fake_photo(1)] * 60), scripted(detector), family, config=TrackingConfig(every=1))
    assert last.people[0].looks == looks


def test_who_is_enrolled_meanwhile_is_known_from_then_on(fake: FaceRecognizer, family: Gallery):
    results = watch(in_turn(clips((5, 30))), fake, family, config=TrackingConfig(every=1))
    early = list(itertools.islice(results, 10))
    with Gallery.open(family.path, fake_recognizer()) as other:
        other.enroll("Eve", fake_photo(5))
    late = list(results)
    assert [event[1] for event in said(early)] == ["appeared", "unknown"]
    assert said(late) == [(12, "named", 1, "Eve")]


def test_photos_are_scenes_of_their_own(fake: FaceRecognizer, family: Gallery):
    frames = [fake_photo(1, 1), np.hstack([fake_photo(2, 1), fake_photo(1, 2)]), EMPTY, fake_photo(9)]
    results = list(watch(in_turn(frames, fps=1), fake, family, config=TrackingConfig.photos()))
    names = [[person.name for person in result.people] for result in results]
    assert names == [["Ada"], ["Bea", "Ada"], [], [None]]
    assert names == [[who.name for who in fake.identify(frame, family)] for frame in frames]
    assert [kind for _, kind, *_ in said(results)].count("left") == 3


def test_memory_is_flat(fake: FaceRecognizer, family: Gallery):
    """People come and go for thousands of frames; what is held is what was held after the first hundreds."""

    def endless() -> Iterator[np.ndarray]:
        for number in itertools.count():
            yield fake_photo(number // 10 % 40, number) if number % 10 < 6 else EMPTY

    def held() -> int:
        gc.collect()  # and what other tests have left running allocates too, elsewhere
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*edgeface_runtime*")])
        return sum(trace.size for trace in ours.traces)

    results = watch(in_turn(endless(), fps=5), fake, family, config=TrackingConfig(every=1, patience=0.3))
    events = sum(len(result.events) for result in itertools.islice(results, 150))
    assert events > 30
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(2):
            for _result in itertools.islice(results, 250):
                pass
            sizes.append(held())
        assert sizes[1] - sizes[0] < 20_000
    finally:
        tracemalloc.stop()


def test_strangers_get_a_name_no_more_often_than_in_one_photo(fake: FaceRecognizer, family: Gallery):
    """Three looks of five must agree, so that a stream is stricter than ``identify`` at the same rate."""
    for person in range(3, 40):
        family.enroll(f"P{person}", fake_photo(person), force=True)
    strangers = range(100, 140)
    named = 0
    for person in strangers:
        *_, last = watch(in_turn(clips((person, 6))), fake, family, 0.3, config=TrackingConfig(every=1))
        named += last.people[0].name is not None
    photos = sum(fake.identify(fake_photo(person, 1), family, 0.3)[0].name is not None for person in strangers)
    assert photos > 0
    assert named <= photos


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "every is 0; it must be at least 1"),
        ({"votes": 0}, "votes is 0"),
        ({"agree": 6}, "agree is 6; it must be more than half of votes, 5, and at most all"),
        ({"agree": 2}, "agree is 2"),
        ({"overlap": 0}, "overlap is 0"),
        ({"overlap": 1.5}, "overlap is 1.5"),
        ({"patience": -1}, "patience is -1"),
        ({"look": -1}, "look is -1; it must be at least 0 seconds"),
        ({"every_seconds": -0.1}, "every_seconds is -0.1"),
        ({"patience": float("nan")}, "patience is nan"),
    ],
)
def test_a_pace_that_cannot_be(changes: dict[str, float], message: str):
    with pytest.raises(UsageError, match=message):
        TrackingConfig(**changes)  # type: ignore[arg-type]


def test_what_cannot_be_watched(fake: FaceRecognizer, family: Gallery, tiny_onnx: Path):
    with pytest.raises(GalleryError, match="enroll the photos anew"):
        next(watch(in_turn([EMPTY]), FaceRecognizer(tiny_onnx), family))
    with pytest.raises(UsageError, match="give a threshold"):
        next(watch(in_turn([EMPTY]), fake, family, 1e-9))
    real = FaceRecognizer(fake.model)
    for broken in (np.zeros((9, 9, 2), np.uint8), np.zeros((9, 9, 3), np.float32)):
        with pytest.raises(ImageError):
            next(watch(in_turn([broken]), real, family))


def test_the_old_keyword_works_and_says_the_new_one(fake: FaceRecognizer, family: Gallery):
    frames = clips((1, 8))
    with pytest.warns(DeprecationWarning, match="pace is called config") as warned:
        old = said(list(watch(in_turn(frames), fake, family, pace=TrackingConfig(every=1))))
    assert {Path(one.filename) for one in warned} == {Path(__file__)}
    assert old == said(list(watch(in_turn(frames), fake, family, config=TrackingConfig(every=1))))
    assert old != said(list(watch(in_turn(frames), fake, family)))


def test_the_old_number_of_looks_has_no_effect_and_says_so():
    with pytest.warns(DeprecationWarning, match="look says the seconds") as warned:
        config = TrackingConfig(again=25)
    assert [Path(one.filename) for one in warned] == [Path(__file__)]
    assert config == TrackingConfig()


def test_a_face_that_is_gone_is_looked_for_at_once(family: Gallery):
    """The detector that follows says so: the next detection need not be due."""

    class Following(Scripted):
        def follow(self, image: np.ndarray, face: Face) -> Face | None:
            return face if image.any() else None

    frames = [fake_photo(1)] * 14 + [EMPTY] + [fake_photo(1)] * 5
    detector = Following([[(0.0, 0.0)]] * 20)
    config = TrackingConfig(every=60, every_seconds=9)
    results = watch(in_turn(frames, fps=15), scripted(detector), family, config=config)
    asked = [detector.asked for _ in results]
    assert asked[13] < asked[14]
