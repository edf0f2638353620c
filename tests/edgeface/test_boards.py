from __future__ import annotations

import html
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeface.report.boards import draw_accuracy, letters_of, write_boards
from edgeface.report.page import PhotoCounts
from edgeface_devices.changes import parse_limit
from edgeface_devices.figures import Figure
from edgeface_devices.results import Results, judge, merge
from edgeface_runtime import UsageError


def row(path: str, ms: float | None, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    engine = "onnxruntime" if path.endswith("onnx") else "litert"
    stated = None if accuracy is None else {"value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.005}
    return {
        "path": path,
        "format": path.rpartition(".")[2],
        "engine": engine,
        "engine_version": "1.2",
        "precision": path.split(".")[1],
        "threads": 1,
        "p50_ms": ms,
        "p90_ms": ms and ms * 1.1,
        "cpu_p50_ms": ms,
        "import_ms": 100.0,
        "load_ms": 20.0,
        "first_ms": 3.0,
        "peak_mb": 55.0,
        "size_bytes": 1_234_567,
        "source": "measured",
        "verification": stated,
        **changes,
    }


def merged(accuracy: float | None = 0.98, path: str = "net.int8.tflite") -> Results:
    """Two files here and on a board: one with an estimate, one without a basis."""
    absent = dict.fromkeys(["p90_ms", "cpu_p50_ms", "import_ms", "load_ms", "first_ms", "peak_mb", "engine_version"])
    estimate = {"source": "estimated", "interval_ms": [15.0, 60.0], "note": "22 published nets", "threads": 4, **absent}
    here = [row("net.fp32.onnx", 8.0, accuracy), row(path, 4.0, accuracy)]
    there = [row("net.fp32.onnx", None, accuracy, **{**estimate, "interval_ms": None, "note": "no row"})]
    there.append(row(path, 30.0, accuracy, **estimate))
    names = {"Here": here, "Pi 4": there}
    return merge(
        [
            Results.from_json(
                {
                    "schema": 1,
                    "device": {"name": name, "source": rows[0]["source"], "cores": 4, "system": "Linux"},
                    "rows": rows,
                }
            )
            for name, rows in names.items()
        ]
    )


def page(tmp_path: Path, document: Results, **options: Any) -> str:
    photos = options.pop("photos", None)
    path = tmp_path / "page.html"
    write_boards(path, document, judge(document, **options), photos=photos, demands=["at most 20 ms a face"])
    return path.read_text(encoding="utf-8")


def words(text: str) -> str:
    """What a reader sees, without styles and pictures."""
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def cells(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr.*?</tr>", re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", text, flags=re.DOTALL), re.DOTALL)
    return [[words(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", line, re.DOTALL)] for line in rows]


def test_every_row_names_its_source_and_only_estimates_have_intervals(tmp_path: Path):
    rows = cells(page(tmp_path, merged()))
    share = "98.00 pairs, 97.00 to 98.50"
    numbers = ["15.0 to 60.0 estimated", "–", "16.7 to 66.7", "–", "–", "1.23"]
    assert rows[1:5] == [
        ["A net.fp32.onnx", "Here", "onnxruntime 1.2", "8.00 measured", "8.80", "125", "123", "55", "1.23", share],
        ["B net.int8.tflite", "Here", "litert 1.2", "4.00 measured", "4.40", "250", "123", "55", "1.23", share],
        ["A net.fp32.onnx", "Pi 4", "onnxruntime, 4 threads", "no basis estimated", *"––––", "1.23", share],
        ["B net.int8.tflite", "Pi 4", "litert, 4 threads", *numbers, share],
    ]
    assert ["Pi 4, litert, int8", "estimated, 90 % interval: 22 published nets"] in rows
    assert ["Pi 4, onnxruntime, fp32", "no basis: no row"] in rows


def test_the_choice_and_the_nearest_miss_are_at_the_top(tmp_path: Path):
    text = words(page(tmp_path, merged(), budget_ms=20))
    assert "Asked for: at most 20 ms a face" in text
    assert (
        "4.00 ms Here, measured, the embedding of one face alone take net.int8.tflite on litert, 1 thread: 4.4 ms (p90)"
        in text
    )
    assert (
        "15.0 to 60.0 ms Pi 4, estimated, the embedding of one face alone nothing fits; nearest net.int8.tflite "
        "on litert, 4 threads: 60.0 ms" in text
    )


def test_without_a_budget_the_fastest_is_shown(tmp_path: Path):
    assert "fastest: net.int8.tflite on litert" in words(page(tmp_path, merged()))


def test_changes_and_failures_are_shown(tmp_path: Path):
    text = page(tmp_path, merged(), baseline=merged(), limits=[parse_limit("p50>5")])
    assert ["int8 TFLite", "litert", "4.00", "4.00", "1.00", "–", "1.00", "noise not known"] in cells(text)
    assert "Failed: net.fp32.onnx on Here, onnxruntime: p50 is 8 (p50>5)" in words(text)


def test_a_busy_machine_is_admitted(tmp_path: Path):
    assert "busy" not in words(page(tmp_path, merged()))
    document = merged()
    rows = document.rows
    busy = replace(rows[0], cpu_p50_ms=Figure(2.0, "measured"))
    document = replace(document, rows=(busy, *rows[1:]))
    assert "Other programs kept the processor of Here busy" in words(page(tmp_path, document))


@pytest.mark.parametrize(("accuracy", "heading"), [(0.98, "Accuracy against time"), (None, "Time of one face")])
def test_each_board_with_a_time_has_a_picture(accuracy: float | None, heading: str, tmp_path: Path):
    text = page(tmp_path, merged(accuracy))
    assert heading in text
    assert text.count("<svg") == 2


def test_a_ring_and_its_interval_stand_for_an_estimate_and_a_disc_for_a_measurement():
    document = merged()
    rows = document.rows
    timed = [entry for entry in rows if entry.p50_ms]
    letters = letters_of(rows)
    here = draw_accuracy(timed[:2], timed, letters).axes[0]
    board = draw_accuracy(timed[2:], timed, letters).axes[0]
    assert [line.get_markerfacecolor() == "none" for line in here.lines] == [False, False]
    interval, ring = board.lines
    assert list(interval.get_xdata()) == [15.0, 60.0]
    assert ring.get_markerfacecolor() == "none"
    assert here.get_xlim() == board.get_xlim()
    assert [text.get_text() for text in board.texts] == ["B"]


def test_files_of_one_estimate_share_a_marker():
    document = merged()
    one = document.rows[3]
    rows = one, replace(one, path=Path("other.int8.tflite"), p50_ms=replace(one.p50_ms, value=30.001))
    axes = draw_accuracy(rows, rows, letters_of(rows)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["A, B"]


def test_letters_go_on_after_z():
    rows = [replace(merged().rows[0], path=Path(f"{n}.fp32.onnx")) for n in range(28)]
    assert list(letters_of(rows).values())[24:] == ["Y", "Z", "AA", "BB"]


def test_names_from_outside_are_escaped_and_nothing_is_fetched(tmp_path: Path):
    text = page(tmp_path, merged(path="<b>x.int8.tflite"), photos=PhotoCounts("<i>faces", 3, 9, 6))
    assert "<b>x" not in text
    assert "<i>faces" not in text
    assert "3 people, 9 photos with names, 6 held out" in words(text)
    assert not re.search(r"<(script|link|iframe|img)\b|@import|https?://(?!www\.w3\.org|purl|creativecommons)", text)


def test_a_page_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    document = merged()
    with pytest.raises(UsageError, match=r"none/page\.html: cannot be written"):
        write_boards(tmp_path / "none" / "page.html", document, judge(document))


@pytest.mark.parametrize("width", [1280, 400])
def test_no_table_is_cut_off(width: int, tmp_path: Path):
    """In a real browser: nothing is wider than the page, and no table than its frame."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium")
    results = merged(path="a-name-as-long-as-they-come.int8.tflite")
    page, frame = tmp_path / "page.html", tmp_path / "frame.html"
    write_boards(page, results, judge(results, baseline=results, budget_ms=20))
    # In a frame, for a window of its own is never narrower than 500 px.
    frame.write_text(
        f"""<iframe src="page.html" style="border:0;width:{width}px;height:4000px"></iframe><script>
        onload = () => {{
            const page = document.querySelector("iframe").contentDocument;
            const boxes = [page.documentElement, ...page.querySelectorAll(".scroll")];
            document.title = boxes.map(box => box.scrollWidth - box.clientWidth).join(" ");
        }}</script>"""
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files"]
    command = [program, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    title = re.search("<title>(.*)</title>", shown)
    assert title is not None
    overflows = [int(number) for number in title[1].split()]
    assert len(overflows) == 4
    assert max(overflows) <= 0
