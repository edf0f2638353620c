"""With the extra that a refusal names, installed as it says, what was refused works."""

from __future__ import annotations

import json
from typing import Any

GALLERY = "--gallery known.gallery"


def hint(done: Any) -> str:
    """The command that a refusal of one line ends with."""
    assert done.stderr.count("\n") == 1, done.stderr
    before, said, command = done.stderr.strip().rpartition("; it comes with: ")
    assert said
    assert before.startswith("edgeface: ")
    return str(command)


def test_a_video_runs_after_its_hint_was_followed(device: Any):
    assert not device.has("cv2")
    command = f"edgeface run --video door.mp4 {GALLERY} --output named.mp4 --json"
    device.run(hint(device.run(command, code=2)))
    events = json.loads(device.run(command).stdout)["events"]
    told = [(event["event"], event["name"]) for event in events]
    assert told == [
        ("appeared", None),
        ("named", "Ada"),
        ("left", "Ada"),
        ("appeared", None),
        ("unknown", None),
        ("left", None),
    ]
    assert (device.here / "named.mp4").stat().st_size > 10_000
    assert "camera 0" in device.run(f"edgeface run --camera 0 {GALLERY}", code=2).stderr


def test_reports_are_written_after_their_hint_was_followed(device: Any):
    assert not device.has("jinja2")
    command = "edgeface profile mobilefacenet --report page.html"
    device.run(hint(device.run(command, code=2)))
    device.run(command)
    device.run("edgeface bench mobilefacenet.tflite mobilefacenet.onnx --calls 10 --report bench.html")
    for page in ("page.html", "bench.html"):
        assert "mobilefacenet" in (device.here / page).read_text()


def test_photos_are_prepared_and_a_model_is_judged_after_the_hint_was_followed(device: Any):
    assert not device.has("sklearn")
    device.run(hint(device.run("edgeface data prepare family/ prepared/", code=2)))
    device.run("edgeface data prepare family/ prepared/")
    device.run("edgeface data split prepared/")
    judged = json.loads(device.run("edgeface eval mobilefacenet --data prepared/ --json").stdout)
    assert judged["identification"]["accuracy"] > 0.9


def test_a_large_gallery_is_searched_after_its_hint_was_followed(device: Any):
    program = "from edgeface_runtime import FaceRecognizer, Gallery, MissingExtraError\n"
    program += "try:\n    Gallery.open('people.gallery', FaceRecognizer(), index=True)\n"
    program += "except MissingExtraError as error:\n    print(error)\n"
    (device.here / "search.py").write_text(program)
    said = device.run("python search.py").stdout
    assert said.endswith("pip install 'edgeface[index]'\n")
    device.run(said.split(": ")[1])
    assert device.run("python search.py").stdout == ""
