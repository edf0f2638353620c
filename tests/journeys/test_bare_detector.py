"""A gallery of the former default detector goes on, without and with a word of it in the file."""

from __future__ import annotations

import json
from typing import Any

FINDS = """
from edgeface import FaceRecognizer, Gallery

recognizer = FaceRecognizer()
with Gallery("people.gallery", recognizer) as people:
    print(people.detector, type(recognizer.detector).__name__, recognizer.identify("passport.jpg", people)[0].name)
"""
FORGET = """
import sqlite3

with sqlite3.connect("people.gallery") as db:
    db.execute("DELETE FROM meta WHERE key = 'detector'")
"""


def test_a_gallery_of_blazeface_is_searched_with_it(bare: Any):
    bare.run("edgeface enroll family/ --gallery people.gallery --detector blazeface")
    (bare.here / "finds.py").write_text(FINDS)
    for was in ("with", "probably with"):
        if was == "probably with":
            (bare.here / "forget.py").write_text(FORGET)
            bare.run("python forget.py")
        assert bare.run("python finds.py").stdout == "blazeface BlazeFace Ada\n"
        done = bare.run("edgeface identify passport.jpg -g people.gallery --json")
        assert json.loads(done.stdout)["faces"][0]["name"] == "Ada"
        assert done.stderr == ""
        (line,) = bare.run("edgeface identify passport.jpg -g people.gallery --detector yunet").stderr.splitlines()
        assert line.startswith(f"people.gallery: enrolled {was} the detector blazeface: the scores of faces that yunet")
