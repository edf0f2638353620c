from __future__ import annotations

import csv
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface import live
from edgeface.cli import run
from edgeface.cli.run import run as run_verb
from edgeface_runtime import FaceRecognizer, Frame, Gallery, Source, TrackingConfig, in_turn, open_source, watch
from edgeface_runtime.testing import fake_photo, fake_recognizer

THRESHOLDS = {"0.01": {"value": 0.995, "high": 0.996}, "0.001": {"value": 0.998, "high": 0.999}}
WATCH = ("run", "--video", "door.mp4", "-g", "g", "-m", "net.onnx")
Say = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path], att: Path) -> Path:
    """A model, a gallery of s1 to s3, photos of nobody, of s2 and of a stranger, a video of s2 who comes and goes."""
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path_factory.mktemp("template")
    make_onnx(folder / "net.onnx", thresholds=THRESHOLDS)
    make_onnx(folder / "other.onnx", seed=1)
    with Gallery.open(folder / "g", FaceRecognizer(folder / "net.onnx")) as gallery:
        for person in (1, 2, 3):
            gallery.enroll(f"s{person}", att / f"s{person}" / "1.pgm")
    (folder / "photos").mkdir()
    face = np.asarray(Image.open(att / "s2" / "1.pgm").convert("RGB"))
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(folder / "photos" / "a.png")
    Image.fromarray(face).save(folder / "photos" / "b.png")
    shutil.copy(att / "s9" / "1.pgm", folder / "photos" / "c.pgm")
    writer = cv2.VideoWriter(str(folder / "door.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for number in range(36):
        frame = np.full((240, 320, 3), 128, np.uint8)
        if 3 <= number < 18:
            frame[40:152, 30 + 4 * number : 122 + 4 * number] = face[..., ::-1]
        writer.write(frame)
    writer.release()
    return folder


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, made the current folder."""
    place = shutil.copytree(template, tmp_path / "place")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def say(say: Say) -> Say:
    return partial(say, "run", "-g", "g", "-m", "net.onnx")


def events(found: dict[str, Any]) -> list[tuple[int, str, str | None]]:
    return [(row["frame"], row["event"], row["name"]) for row in found["events"]]


def test_a_video_is_watched_and_drawn(say: Say, place: Path):
    code, found, err = say("--video", "door.mp4", "-o", "named.mp4", "--threshold", "0.9")
    recognizer = FaceRecognizer("net.onnx")
    with Gallery.open("g", recognizer) as gallery:
        results = list(watch(open_source("door.mp4").frames, recognizer, gallery, threshold=0.9))
    assert events(found) == [(m.frame.index, e.kind, e.person.name) for m in results for e in m.events]
    assert [kind for _, kind, _ in events(found)] == ["appeared", "named", "left"]
    assert (code, found["source"], found["output"], found["frames"], found["skipped"]) == (
        0,
        "door.mp4",
        "named.mp4",
        36,
        0,
    )
    assert found["fps"] == pytest.approx(36 / found["seconds"])
    assert (found["events_left_out"], found["interrupted"]) == (0, False)
    assert len(err.splitlines()) == 3
    assert sorted(path.name for path in place.iterdir() if "named" in path.name) == ["named.mp4"]
    named = list(open_source("named.mp4").frames)
    assert len(named) == 36
    for result, frame in zip(results, named, strict=True):
        changed = np.abs(frame.pixels.astype(int) - result.frame.pixels).max(axis=2) > 50
        assert changed.any() == bool(result.people)
        for person in result.people:
            ys, xs = np.nonzero(changed)
            x0, _, _, y1 = person.box
            assert xs.min() == pytest.approx(x0, abs=3)
            assert ys.max() == pytest.approx(y1, abs=3)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_camera_on_its_side_is_turned_upright(say: Say, place: Path, att: Path, turn: int):
    """With a model that tells people apart: compressed twice, a face is another one to a net of chance."""
    with Gallery.open("people", FaceRecognizer("mobilefacenet-tiny")) as gallery:
        for person in (1, 2, 3):
            gallery.enroll(f"s{person}", att / f"s{person}" / "1.pgm")
    cv2 = pytest.importorskip("cv2")
    frames = [np.rot90(frame.pixels, turn // 90)[..., ::-1] for frame in open_source("door.mp4").frames]
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter("side.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 10, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame))
    writer.release()
    code, found, _ = say("--video", "side.mp4", "-g", "people", "-m", "mobilefacenet-tiny", "--turn", str(turn))
    assert code == 0
    assert [(kind, name) for _, kind, name in events(found)] == [("appeared", None), ("named", "s2"), ("left", "s2")]


def test_each_photo_of_a_folder_is_answered_and_drawn(say: Say, place: Path):
    """As ``identify`` answers for it; what cannot be read is counted, be it the last."""
    Path("photos/broken.jpg").write_bytes(b"nothing")
    Path("photos/z.jpg").write_bytes(b"nothing")
    Image.open("photos/b.png").save("photos/00.jpg", quality=95)
    code, found, err = say("--folder", "photos", "-o", "drawn", "--threshold", "0.999")
    assert (code, found["frames"], found["skipped"], found["interrupted"]) == (1, 4, 2, False)
    assert found["photos_left_out"] == 0
    recognizer = FaceRecognizer("net.onnx")
    with Gallery.open("g", recognizer) as gallery:
        for row in found["photos"]:
            if row["error"] is None:
                expected = recognizer.identify(Path("photos") / row["photo"], gallery, threshold=0.999)
                assert row["faces"] == json.loads(json.dumps([asdict(face) for face in expected]))
    names = {row["photo"]: [face["name"] for face in row["faces"]] for row in found["photos"]}
    assert list(names) == ["00.jpg", "a.png", "b.png", "broken.jpg", "c.pgm", "z.jpg"]
    assert (names["a.png"], names["b.png"], names["c.pgm"]) == ([], ["s2"], [None])
    assert "photos/broken.jpg: not an image that can be read" in err
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["00.jpg", "a.png.jpg", "b.png.jpg", "c.pgm.jpg"]
    code, found, err = say("--folder", "photos", "-o", "drawn")
    assert (code, found, err) == (2, {}, "edgeface: drawn: is not empty; name another folder\n")


def test_a_folder_of_folders_is_taken_as_identify_takes_it(say: Say, place: Path, capsys: pytest.CaptureFixture[str]):
    Path("photos/ada/more").mkdir(parents=True)
    shutil.copy("photos/b.png", "photos/ada/more/b.png")
    Path("photos/ada/broken.jpg").write_bytes(b"nothing")
    code, found, err = say("--folder", "photos", "-o", "photos/drawn", "--threshold", "0.999")
    rows = {row["photo"]: [face["name"] for face in row["faces"]] for row in found["photos"]}
    assert (code, rows["ada/more/b.png"], rows["ada/broken.jpg"]) == (1, ["s2"], [])
    assert "photos/ada/broken.jpg: not an image" in err
    assert Path("photos/drawn/ada/more/b.png.jpg").exists()
    shutil.rmtree("photos/drawn")
    run(["identify", "photos", "-g", "g", "-m", "net.onnx", "--threshold", "0.999", "--json-lines"])
    told = [json.loads(line)["photo"] for line in capsys.readouterr().out.splitlines()]
    assert list(dict.fromkeys(told)) == [f"photos/{name}" for name in rows]


def test_a_folder_as_csv_and_as_lines_of_json(place: Path, capsys: pytest.CaptureFixture[str]):
    Path("photos/broken.jpg").write_bytes(b"nothing")
    Path("photos/=1+1.png").write_bytes(Path("photos/b.png").read_bytes())
    line = ["run", "--folder", "photos", "-g", "g", "-m", "net.onnx", "--threshold", "0.999"]
    assert run([*line, "--json-lines"]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(text) for text in out.splitlines()]
    assert [(row["photo"], row["face"]) for row in rows] == [
        ("=1+1.png", 1),
        ("a.png", None),
        ("b.png", 1),
        ("broken.jpg", None),
        ("c.pgm", 1),
    ]
    assert [rows[at]["reason"] for at in (1, 2, 3)] == [
        "no face found",
        None,
        "photos/broken.jpg: not an image that can be read",
    ]
    assert err.startswith("4 photos in ")
    assert run([*line, "--csv"]) == 1
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["photo"], row["face"], row["name"]) for row in table] == [
        ("'=1+1.png", "1", "s2"),
        ("a.png", "", ""),
        ("b.png", "1", "s2"),
        ("broken.jpg", "", ""),
        ("c.pgm", "1", ""),
    ]
    assert [float(table[2][key]) for key in ("x0", "y0", "x1", "y1")] == pytest.approx(rows[2]["box"])
    assert float(table[2]["score"]) == rows[2]["score"]
    assert run(line) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["a.png: no face found", f"b.png: s2 {rows[2]['score']:.2f}"]


def test_a_name_of_a_file_breaks_no_line_and_drives_no_terminal(place: Path, capsys: pytest.CaptureFixture[str]):
    photo = Path("photos/b.png").read_bytes()
    shutil.rmtree("photos")
    Path("photos").mkdir()
    Path("photos/a\nb.png").write_bytes(photo)
    Path("photos/b: \x1b[2J.png").write_bytes(b"nothing")
    line = ["run", "--folder", "photos", "-g", "g", "-m", "net.onnx", "--threshold", "0.999"]
    assert run(line) == 1
    out, err = capsys.readouterr()
    assert [text.split(": ")[0] for text in out.splitlines()[:1]] == ["a\\nb.png"]
    assert len(out.splitlines()) == 2
    assert err == "photos/b: \\x1b[2J.png: not an image that can be read\n"
    assert run([*line, "--json-lines"]) == 1
    rows = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [row["photo"] for row in rows] == ["a\nb.png", "b: \x1b[2J.png"]
    assert run(["identify", *map(str, sorted(Path("photos").iterdir())), *line[3:]]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out + err
    assert run(["run", "--video", "no\x1b[2Jwhere.mp4", *line[3:]]) == 2
    assert capsys.readouterr().err == "edgeface: no\\x1b[2Jwhere.mp4: no such file or folder\n"


def test_lines_for_people(place: Path, capsys: pytest.CaptureFixture[str]):
    options = "--threshold 0.9 -o frames --seconds 1.2 --every 2"
    assert run([*WATCH, *options.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0.5 s: 1 appeared: somebody"
    assert lines[1] == "0.7 s: 1 named: s2"
    assert lines[-1].startswith("12 frames in ")
    assert lines[-1].endswith(" a second; 0 skipped; frames")
    assert len(list(Path("frames").glob("0000*.jpg"))) == 12


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "name one of --camera, --video and --folder"),
        ("--video door.mp4 --camera 0", "name one of --camera, --video and --folder"),
        ("--camera 99", "camera 99: cannot be opened"),
        ("--video nowhere.mp4", "nowhere.mp4: no such file or folder"),
        ("--video net.onnx", "net.onnx: not a video that can be read"),
        ("--video photos", "photos: is a folder; name it with --folder"),
        ("--folder door.mp4", "door.mp4: is a file; name it with --video"),
        ("--folder void", "void: no photo in it"),
        ("--video door.mp4 -o out.avi", "out.avi: name a .mp4 file or a folder"),
        ("--video door.mp4 -o nowhere/out.mp4", "there is no folder nowhere"),
        ("--video door.mp4 -o door.mp4", "door.mp4: is what is to be watched"),
        ("--video door.mp4 -o photos", "photos: is not empty; name another folder"),
        ("--folder photos -o out.mp4", "out.mp4: photos differ in size; name a folder"),
        ("--video door.mp4 --every 0", "--every"),
        ("--video door.mp4 --turn 45", "turn is 45; a frame is turned by 0, 90, 180 or 270 degrees"),
        ("--video door.mp4 --far 1e-9", "give a threshold (--threshold)"),
        ("--video door.mp4 --far 0.01 --threshold 0.4", "--far has no effect beside --threshold: give one of them"),
        ("--video door.mp4 -g nowhere", "nowhere: no such gallery; `edgeface enroll` makes one"),
        ("--video door.mp4 -m other.onnx", "name the first (--model FILE), or enroll the photos anew"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    place: Path, capfd: pytest.CaptureFixture[str], line: str, message: str
):
    Path("void").mkdir()
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert run(["run", "-g", "g", "-m", "net.onnx", *line.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_a_video_without_a_frame_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    Path("words.jpg").write_text("no picture")
    assert run(["run", "--video", "words.jpg", *WATCH[3:]]) == 2
    assert capsys.readouterr() == ("", "edgeface: words.jpg: no frame in it that can be read; is it a video?\n")


def test_without_windows_it_says_so(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:    NONE\n")
    assert run([*WATCH, "--show"]) == 2
    assert "this OpenCV shows no windows" in capsys.readouterr().err


def test_a_window_shows_every_frame_until_q(say: Say, place: Path, monkeypatch: pytest.MonkeyPatch):
    cv2 = pytest.importorskip("cv2")
    shown: list[np.ndarray] = []
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:    GTK3\n")
    monkeypatch.setattr(cv2, "imshow", lambda title, bgr: shown.append(bgr), raising=False)
    monkeypatch.setattr(cv2, "waitKey", lambda wait: ord("q") if len(shown) == 5 else -1, raising=False)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append(np.empty(0)), raising=False)
    code, found, _ = say("--video", "door.mp4", "--show", "--threshold", "0.9")
    assert (code, found["frames"], len(shown)) == (0, 5, 6)
    assert shown[0].shape == (240, 320, 3)


def test_a_camera_is_drawn_in_its_own_time(place: Path, monkeypatch: pytest.MonkeyPatch):
    """Frames that were skipped are filled with the one before, so that the video lasts as long as it was."""
    seconds = (0.0, 0.05, 0.5, 1.0)
    pixels = np.zeros((64, 64, 3), np.uint8)
    frames = (Frame(round(10 * at), at, pixels) for at in seconds)
    monkeypatch.setattr(live, "open_source", lambda *_, **__: Source("camera", frames, 10.0))
    fake = fake_recognizer()
    with Gallery.open("fakes", fake) as gallery:
        done = live.run(
            [0],
            fake,
            gallery,
            far=0.01,
            threshold=None,
            config=TrackingConfig(every=1),
            output=Path("cam.mp4"),
            tell=lambda row: None,
        )
    assert (done.frames, done.skipped) == (4, 7)
    assert len(list(open_source("cam.mp4").frames)) == 11


def test_only_the_latest_events_are_kept(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "KEPT", 5)
    frames = (frame for frame in in_turn([fake_photo(t % 2, t) for t in range(10)], 1))
    monkeypatch.setattr(live, "open_source", lambda *_, **__: Source("video", frames, 1.0))
    fake, told = fake_recognizer(), []
    with Gallery.open("fakes", fake) as gallery:
        done = live.run(
            ["x"], fake, gallery, far=0.01, threshold=None, config=TrackingConfig.photos(), tell=told.append
        )
    assert len(told) == 30  # each of ten appears, is unknown and leaves, the last one at the end
    assert (list(done.events), done.events_left_out) == (told[-5:], 25)


def test_ctrl_c_leaves_what_was_written(place: Path):
    """A pipe that never ends stands for a camera that goes on."""
    code = """
import itertools, sys
from pathlib import Path
import numpy as np
from edgeface import live
from edgeface.cli import run
from edgeface_runtime import Source, in_turn
frame_pixels = np.zeros((64, 64, 3), np.uint8)
def endless():
    for frame in in_turn(itertools.repeat(frame_pixels), 10):
        if frame.index == 5:
            print("ready", file=sys.stderr, flush=True)
        yield frame
live.open_source = lambda *_, **__: Source("camera", endless(), 10.0)
sys.exit(run(["run", "--camera", "0", "-g", "g", "-m", "net.onnx", "-o", "out.mp4", "--json"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place
    )
    assert process.stderr
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert found["frames"] >= 5
    written = len(list(open_source(place / "out.mp4").frames))
    assert abs(written - found["frames"]) <= 1  # it may have come between the look and the drawing
    assert list(place.glob(".out.*")) == []


def test_a_full_disk_leaves_no_half_video(place: Path):
    code = """
import resource, signal, sys
from edgeface.cli import run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
sys.exit(run("run --video door.mp4 -g g -m net.onnx -o out.mp4".split()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place, env=os.environ)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "edgeface: out.mp4: cannot be written; is the disk full?"
    assert not (place / "out.mp4").exists()
    assert list(place.glob(".out.*")) == []


def test_the_default_is_the_pace_of_streams():
    assert inspect.signature(run_verb).parameters["every"].default == TrackingConfig().every
