"""From frames to people: who is there, who came, who left.

::

    for result in watch(open_source("door.mp4").frames, recognizer, gallery):
        for event in result.events:
            print(event.kind, event.person.name)

A face is followed from detection to detection (``tracking``) and recognized twice a second; ``visits`` says what name
these looks give it. What is kept in memory does not grow with time (docs/streams.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeface_runtime.checks import described
from edgeface_runtime.errors import UsageError
from edgeface_runtime.faces import Face
from edgeface_runtime.protocols import Searchable
from edgeface_runtime.recognizer import FaceRecognizer
from edgeface_runtime.streams.frames import Frame
from edgeface_runtime.streams.people import FrameResult, Person, TrackingConfig
from edgeface_runtime.streams.visits import Follow, Visits


def watch(
    frames: Iterable[Frame],
    recognizer: FaceRecognizer,
    gallery: Searchable,
    far: float = 1e-2,
    *,
    threshold: float | None = None,
    config: TrackingConfig | None = None,
    check: Callable[[Frame, Person], bool] | None = None,
    pace: TrackingConfig | None = None,
) -> Iterator[FrameResult]:
    """Follows and names the people of a stream: one ``FrameResult`` for each frame.

    The same frames give the same results. The gallery is asked anew at every look, so that enrollments and removals
    by others are heeded while it runs. Nobody is said to have left because the frames have ended.

    Args:
        frames: of ``open_source``, or made with ``in_turn`` from arrays that come from elsewhere.
        recognizer: finds and embeds faces.
        gallery: the people who are known.
        far: the FPIR of one look, over the whole gallery, as in ``identify``.
        threshold: the score that is enough, in place of ``far``.
        config: how often is looked, and how much is enough; ``TrackingConfig()`` where None.
        check: is asked before somebody is ``named``, with the frame and the person as they would be named; where it is
            False the looks count as looks that gave no name. For a liveness test of your own.
        pace: old name of ``config``.

    Raises:
        GalleryError: the gallery was made with another model, or cannot be read.
        UsageError: the model's contract has no threshold for ``far`` over so many photos, or ``frames`` are none.
        ImageError: what is to become a frame is no photo.
    """
    if not hasattr(gallery, "__len__"):
        raise UsageError(f"the gallery is {described(gallery)}; open one with Gallery(path, recognizer)")
    if not isinstance(frames, Iterable):
        raise UsageError(f"frames is {described(frames)}; give the frames of open_source or in_turn")
    if pace is not None:
        warnings.warn("pace is called config; the old name will be removed in edgeface 0.3", DeprecationWarning, 2)
    config = config or pace or TrackingConfig()
    looked: Frame | None = None
    known: int | None = None

    def passes(person: Person) -> bool:
        return check is None or (looked is not None and bool(check(looked, person)))

    visits = Visits(config, passes)
    find = recognizer.faces if config.every_face else recognizer.detector.detect
    follow: Follow | None = None if config.every_face else getattr(recognizer.detector, "follow", None)
    for frame in frames:
        if not isinstance(frame, Frame):
            raise UsageError(f"frames gives {described(frame)}; make frames of arrays with in_turn(images)")
        due = looked is None or visits.is_due(frame.index - looked.index, frame.seconds)
        if due or (follow and not visits.follow(frame.pixels, frame.seconds, follow)):
            looked = frame
            visits.leave(frame.seconds)
            visits.see(_found(frame, find), frame.seconds)
            if known is not None and known != len(gallery):
                visits.ask_anew()
            known = len(gallery)
            asked = visits.due()
            chosen = [face.track.face for face in asked]
            found = recognizer.identify(frame.pixels, gallery, far, threshold=threshold, faces=chosen)
            visits.hear(list(zip(asked, found, strict=True)))
        yield FrameResult(frame, visits.people(frame.seconds), visits.events())


def _found(frame: Frame, find: Callable[[NDArray[np.uint8]], list[Face]]) -> list[Face]:
    """The faces of a frame, looked for where they cost the least."""
    if frame.small is None:
        return find(frame.pixels)
    scale = np.divide(frame.pixels.shape[1::-1], frame.small.shape[1::-1], dtype=np.float32)
    faces = find(frame.small)
    return [replace(face, box=face.box * np.tile(scale, 2), landmarks=face.landmarks * scale) for face in faces]
