"""A family is enrolled, named on photos of a door, told apart, and one of them forgotten."""

from __future__ import annotations

import json
import re
from typing import Any

WHO = """
import json
from pathlib import Path

from edgeface import FaceRecognizer, Gallery

recognizer, named = FaceRecognizer(), {}
with Gallery("people.gallery", recognizer) as people:
    for photo in Path("photos").iterdir():
        named[photo.name] = [face.name for face in recognizer.identify(photo, people)]
print(json.dumps(named))
"""


def test_five_people_are_enrolled_named_told_apart_and_one_is_removed(bare: Any):
    enrolled = bare.run("edgeface enroll family/ --gallery people.gallery").stdout
    for name in ("Ada", "Ben", "Cleo", "Dan", "Eve"):
        assert re.search(rf"^{name}\W+5\W+0\W+0$", enrolled, re.MULTILINE), enrolled

    (bare.here / "who.py").write_text(WHO)
    named = json.loads(bare.run("python who.py").stdout)
    assert len(named) == 30
    for photo, names in named.items():
        who = photo.split("-")[0]
        assert names == [None if who == "stranger" else who], photo

    for photo in ("Ada-6.jpg", "Eve-8.jpg", "stranger-11.jpg", "stranger-23.jpg"):
        (face,) = json.loads(bare.run(f"edgeface identify photos/{photo} -g people.gallery --json").stdout)["faces"]
        assert [face["name"]] == named[photo]
        assert (face["score"] >= face["threshold"]) == (face["name"] is not None)
        assert face["far"] == 0.01
    assert re.search(r"^Ben\W", bare.run("edgeface identify photos/Ben-6.jpg -g people.gallery").stdout, re.MULTILINE)
    assert "unknown" in bare.run("edgeface identify photos/stranger-11.jpg -g people.gallery").stdout

    assert bare.run("edgeface verify passport.jpg selfie.jpg").stdout.startswith("same person")
    done = bare.run("edgeface verify passport.jpg photos/Ben-6.jpg --json", code=1)
    match = json.loads(done.stdout)
    assert {"schema": 1, "same": False, "far": 0.001}.items() <= match.items()
    assert match["score"] < match["threshold"]

    assert bare.run("edgeface gallery remove people.gallery Eve").stdout == "removed 5 photos of Eve\n"
    listed = json.loads(bare.run("edgeface gallery list people.gallery --json").stdout)
    assert {photo["name"] for photo in listed["photos"]} == {"Ada", "Ben", "Cleo", "Dan"}
    assert "Eve" not in bare.run("edgeface gallery list people.gallery").stdout
    assert b"Eve" not in (bare.here / "people.gallery").read_bytes()
    (face,) = json.loads(bare.run("edgeface identify photos/Eve-6.jpg -g people.gallery --json").stdout)["faces"]
    assert face["name"] is None
