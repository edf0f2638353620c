from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from edgeface.report.curves import draw_curves
from edgeface.report.page import PhotoCounts, points, speed, write_report
from edgeface.report.pictures import Marker, draw_accuracy_against_latency, place_labels
from edgeface_devices.measurement import Figure as Number
from edgeface_devices.measurement import Measurement
from edgeface_devices.results import Device, Results, ratios
from edgeface_runtime import Contract, EmbeddingSpec, UsageError


def row(
    precision: str, file_format: str, ms: float, size: int, top1: float | None = 0.99, calls: int = 200
) -> Measurement:
    contract = Contract(
        name="net", backbone="net", precision=precision, embedding=EmbeddingSpec(length=8), parent_sha256="a" * 64
    )
    number = Number(ms, "measured")
    return Measurement(
        path=Path(f"net.{precision}.{file_format}"),
        contract=contract,
        format=file_format,
        engine={"onnx": "onnxruntime", "tflite": "litert"}[file_format],
        engine_version="9.8",
        threads=1,
        import_ms=number,
        load_ms=Number(31.0, "measured"),
        first_ms=Number(7.7, "measured"),
        p50_ms=number,
        p90_ms=Number(ms * 1.1, "measured"),
        p99_ms=Number(ms * 1.2, "measured") if calls >= 100 else None,
        calls=calls,
        precision=precision,
        source="measured",
        cpu_p50_ms=number,
        peak_mb=55.4,
        size_bytes=size,
        top1=top1,
        auc=None if top1 is None else 0.9876,
    )


@pytest.fixture
def four() -> Results:
    rows = (
        row("fp32", "onnx", 6.0, 4_000_000, 0.9917),
        row("int8", "onnx", 4.5, 1_300_000, 0.9833),
        row("fp32", "tflite", 5.2, 4_100_000, 0.9917),
        row("int8", "tflite", 2.6, 1_230_000, 0.9833),
    )
    return results(rows)


def results(rows: Sequence[Measurement]) -> Results:
    return Results(device=Device("Test board", "measured", 4, "Linux"), rows=tuple(rows), ratios=ratios(rows))


EPOCHS = [
    SimpleNamespace(epoch=n, train_loss=3.0 / n, train_accuracy=n / 5, val_loss=None, val_accuracy=None)
    for n in (1, 2, 3)
]


class Page(HTMLParser):
    """Collects tags with their attributes, the words outside style and SVG, and the rows of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self.inside or "svg" in self.inside:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.inside):
            self.rows[-1][-1] += data


def written(tmp_path: Path, bench: Results, **options: object) -> Page:
    path = tmp_path / "report.html"
    write_report(path, bench, **options)  # type: ignore[arg-type]
    return Page(path)


def test_the_headline_says_how_fast_how_small_and_how_accurate(tmp_path: Path, four: Results):
    text = written(tmp_path, four).text
    assert "The int8 TFLite file embeds a face in 2.6 ms , 2.0 times as fast as fp32 TFLite, and takes 1.23 MB" in text
    assert "30 % of that file's size" in text
    assert "closed-set accuracy (top-1) on the held-out photos is 98.3 % ; that of fp32 TFLite is 99.2 %" in text


def test_every_row_and_ratio_is_in_a_table(tmp_path: Path, four: Results):
    rows = written(tmp_path, four).rows
    assert [
        "int8 TFLite",
        "2.60",
        "2.86",
        "3.12",
        "7.7",
        "31",
        "55",
        "1.23",
        "98.3",
        "0.9876",
        "litert 9.8",
        "measured",
    ] in rows
    assert [item[0] for item in rows[1:5]] == ["fp32 ONNX", "int8 ONNX", "fp32 TFLite", "int8 TFLite"]
    assert ["int8 ONNX", "fp32 ONNX", "0.75 ×", "0.75 ×", "0.33 ×"] in rows
    assert ["int8 TFLite", "fp32 TFLite", "0.50 ×", "0.50 ×", "0.30 ×"] in rows


def test_nothing_is_fetched_from_anywhere(tmp_path: Path, four: Results):
    page = written(tmp_path, four, curves=EPOCHS, photos=PhotoCounts("photos", 40, 280, 120))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert sum(tag == "svg" for tag, _ in page.tags) == 2


def test_an_estimate_is_shown_with_its_interval_and_its_source(tmp_path: Path, four: Results):
    estimate = Number(40.0, "estimated", (30.0, 52.0))
    row = replace(four.rows[1], source="estimated", p50_ms=estimate, p90_ms=None, p99_ms=None)
    cells = written(tmp_path, results([row])).rows[1]
    assert cells[1:4] == ["30.00 to 52.00 (estimated)", "–", "–"]
    assert cells[-1] == "estimated"


def test_without_accuracy_nothing_is_said_of_it(tmp_path: Path, four: Results):
    page = written(tmp_path, results(tuple(replace(item, top1=None, auc=None) for item in four.rows)))
    assert "closed-set" not in page.text
    assert "2.0 times as fast as fp32 TFLite" in page.text
    assert page.rows[1][8:10] == ["–", "–"]


def test_a_percentile_without_enough_calls_is_a_dash_with_the_reason(tmp_path: Path, four: Results):
    page = written(tmp_path, results([row("fp32", "onnx", 6.0, 4_000_000, calls=20)]))
    assert page.rows[1][3] == "–"
    assert "fewer than 10 or 100 calls" in page.text
    assert "fewer than 10 or 100 calls" not in written(tmp_path, four).text


def test_parity_photos_and_credit_are_shown(tmp_path: Path, four: Results):
    exported = SimpleNamespace(
        format="onnx",
        precision="int8",
        cosine_mean=0.99712,
        cosine_p1=0.98,
        operators={"int8": 50, "float": 2, "other": 1},
    )
    photos = PhotoCounts("AT&T faces", 40, 280, 120, credit="AT&T Laboratories Cambridge")
    page = written(tmp_path, four, photos=photos, parity=[exported], parity_photos=120)
    assert ["int8 ONNX", "0.99712", "0.98000", "50 / 2 / 1"] in page.rows
    assert "AT&T faces: 40 people, 280 photos with names, 120 held out" in page.text
    assert "One photo of 120 is 0.8 points" in page.text
    assert "AT&T faces: credit AT&T Laboratories Cambridge." in page.text


def test_words_from_a_model_file_are_escaped(tmp_path: Path, four: Results):
    contract = replace(four.rows[0].contract, licence="<script>alert(1)</script>", backbone="<b>")
    page = written(tmp_path, results([replace(four.rows[0], contract=contract)]))
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.text


def test_a_busy_machine_is_admitted(tmp_path: Path, four: Results):
    assert "kept the processor busy" not in written(tmp_path, four).text
    rows = tuple(replace(item, cpu_p50_ms=Number(item.median_ms / 2, "measured")) for item in four.rows)
    assert "kept the processor busy" in written(tmp_path, results(rows)).text


def test_rows_of_one_label_are_told_apart_by_their_files(tmp_path: Path, four: Results):
    twin = replace(four.rows[0], path=Path("other/net.onnx"))
    page = written(tmp_path, results([four.rows[0], twin]))
    assert [cells[0] for cells in page.rows[1:3]] == ["net.fp32.onnx", "net.onnx"]


def test_a_report_that_cannot_be_written_is_one_clear_error(tmp_path: Path, four: Results):
    with pytest.raises(UsageError, match=r"none/report\.html: cannot be written"):
        write_report(tmp_path / "none" / "report.html", four)


def label_boxes(figure: Figure) -> list:
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]


@pytest.mark.parametrize("seed", range(5))
def test_labels_touch_neither_each_other_nor_a_marker_nor_the_edge(seed: int):
    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(4.8, 3.7), layout="constrained")
    axes = figure.subplots()
    markers = [Marker(x, y, 8.0, f"model {n}\n{x:.1f} ms") for n, (x, y) in enumerate(rng.uniform(3, 7, (6, 2)))]
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    place_labels(figure, markers)
    boxes = label_boxes(figure)
    assert len(boxes) == 6
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    reach = 8.0 * figure.dpi / 72
    for number, box in enumerate(boxes):
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1
        for other, marker in enumerate(markers):
            x, y = axes.transData.transform((marker.x, marker.y))
            inside = box.x0 < x + reach and x - reach < box.x1 and box.y0 < y + reach and y - reach < box.y1
            assert other == number or not inside


def test_files_at_one_point_keep_readable_labels_and_areas_follow_sizes(four: Results):
    same = tuple(replace(item, p50_ms=four.rows[0].p50_ms) for item in four.rows)
    figure = draw_accuracy_against_latency(results(same))
    boxes = label_boxes(figure)
    assert len(boxes) == 4
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    areas = [item.get_sizes()[0] for item in figure.axes[0].collections]
    sizes = [item.size_bytes for item in same]
    np.testing.assert_allclose(np.array(areas) / max(areas), np.array(sizes) / max(sizes), rtol=1e-6)


def test_curves_become_a_picture_with_or_without_validation(tmp_path: Path):
    draw_curves(EPOCHS, tmp_path / "curves.png")
    full = [SimpleNamespace(**{**vars(item), "val_loss": 1.0, "val_accuracy": 0.5}) for item in EPOCHS]
    draw_curves(full, tmp_path / "full.png")
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in ("curves.png", "full.png")]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()


def test_a_report_leaves_matplotlibs_settings_alone(tmp_path: Path, four: Results):
    before = dict(matplotlib.rcParams)
    written(tmp_path, four, curves=EPOCHS)
    assert dict(matplotlib.rcParams) == before


def test_ratios_and_differences_in_words():
    assert (speed(0.5), speed(1.0), speed(2.5)) == (
        "2.0 times as fast as",
        "1.0 times as fast as",
        "2.5 times as slow as",
    )
    assert (points(-0.0083), points(0.01), points(0.0), points(-0.0001)) == (
        "−0.8 points",
        "+1.0 points",
        "0.0 points",
        "0.0 points",
    )
