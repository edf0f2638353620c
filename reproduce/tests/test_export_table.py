"""The script that writes docs/export-results.md, on the session's run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeface.deploy import ExportPhotos, balanced
from edgeface.evaluation import evaluate
from edgeface_export.options import ExportOptions
from edgeface_runtime import load
from reproduce import export_table as script

if TYPE_CHECKING:
    from tests.conftest import Trained


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_holds_every_file_of_each_run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[ExportOptions] = []

    def export(run: Path, photos: ExportPhotos, folder: Path, options: ExportOptions, **_: object) -> object:
        asked.append(options)
        return trained.export

    monkeypatch.setattr(script, "export_model", export)
    page = tmp_path / "results.md"
    script.main([str(trained.run), "--data", str(trained.photos), "--output", str(page), "--calibrator", "minmax"])
    assert asked[0].calibrator == "minmax"
    assert asked[0].precisions == ("fp16", "fp32", "int8", "int8-dynamic", "int8-weights")
    lines = page.read_text("utf-8").splitlines()
    title = f"## {trained.run.name}: mobilefacenet"
    assert title in lines
    rows = [cells(line) for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == [".".join(file.path.name.split(".")[1:]) for file in trained.export.files]
    assert all(len(row) == len(script.COLUMNS) for row in rows)
    for row, file in zip(rows[2:], trained.export.files, strict=True):
        # All of these photos are few enough for the gallery, so the closed set is what eval says.
        expected = evaluate(load(file.path).embed(trained.data.faces), trained.data).identification
        assert expected is not None
        assert row[1] == f"{file.size_bytes:,}"
        assert row[4] == f"{100 * expected.accuracy:.2f}"
        assert row[7].startswith(f"{file.drop.points:+.3f} (")
        assert row[9] == f"{file.latency_ratio:.2f}"
    assert sum("calibrator mse (none tried); in float: none." in line for line in lines) == 2
    first = page.read_text("utf-8")
    page.write_text(first.replace(title, "## another: net"), "utf-8")
    script.main([str(trained.run), "--data", str(trained.photos), "--output", str(page), "--calibrator", "minmax"])
    assert [line for line in page.read_text("utf-8").splitlines() if line[:3] == "## "] == ["## another: net", title]
    assert first[first.index(title) :] in page.read_text("utf-8")


def test_a_precision_that_the_gate_refuses_is_named(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def export(run: Path, photos: ExportPhotos, folder: Path, options: ExportOptions, **_: object) -> object:
        asked.append(options.precisions)
        refused = "net.int8-dynamic.onnx: loses 1.0 points" if "int8-dynamic" in asked[-1] else None
        return replace(trained.export, reason=refused)

    monkeypatch.setattr(script, "export_model", export)
    page = tmp_path / "results.md"
    script.main([str(trained.run), "--data", str(trained.photos), "--output", str(page)])
    assert asked[1] == tuple(precision for precision in asked[0] if precision != "int8-dynamic")
    assert "- Refused by the gate: net.int8-dynamic.onnx: loses 1.0 points." in page.read_text("utf-8").splitlines()
    monkeypatch.setattr(script, "export_model", lambda *_, **__: replace(trained.export, reason="net.int8.onnx: no"))
    with pytest.raises(SystemExit, match=r"net\.int8\.onnx: no"):
        script.main([str(trained.run), "--data", str(trained.photos), "--output", str(page)])


def test_the_gallery_is_bounded_and_no_test_photo_is_lost(trained: Trained):
    script.GALLERY = 2
    known = script.closed(trained.data)
    held_out = trained.data.rows("test")
    np.testing.assert_array_equal(known.faces[known.rows("test")], trained.data.faces[held_out])
    assert np.bincount(known.labels[known.rows("train", "val")]).max() == 4
    assert len(known.paths) == len(known.faces) == len(held_out) + 4 * len(known.identities)


def test_photos_are_named_after_the_nearest_mean_of_each_draw(trained: Trained):
    script.GALLERY, script.DRAWS = 2, 5
    known = script.closed(trained.data)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(0, 1, (len(known.identities), 8))[known.labels] + rng.normal(0, 1, (len(known.labels), 8))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    found = script.named(embeddings, known)
    probes, hits = known.rows("test"), []
    for seed in range(5):
        drawn = balanced(known.labels, known.rows("train", "val"), 2 * len(known.identities), seed=seed)
        centres = [
            embeddings[drawn[known.labels[drawn] == label]].mean(axis=0) for label in range(len(known.identities))
        ]
        units = np.array(centres) / np.linalg.norm(centres, axis=1, keepdims=True)
        hits.append((embeddings[probes] @ units.T).argmax(axis=1) == known.labels[probes])
    np.testing.assert_allclose(found, np.mean(hits, axis=0))
    assert 0 < found.mean() < 1
    assert len(set(found.tolist())) > 2


def test_a_refused_run_stops_the_table(trained: Trained, monkeypatch: pytest.MonkeyPatch):
    from dataclasses import replace

    monkeypatch.setattr(script, "export_model", lambda *_, **__: replace(trained.export, reason="loses much"))
    with pytest.raises(SystemExit, match="loses much"):
        script.main([str(trained.run), "--data", str(trained.photos), "--output", "nowhere.md"])
    assert not Path("nowhere.md").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"sse", "avx2", "avx512_vnni"}, ", on a processor with VNNI"),
        ({"avx2", "avx_vnni"}, ", on a processor with VNNI"),
        ({"avx2"}, ", on a processor without VNNI"),
        ({"asimd"}, ""),
    ],
)
def test_the_kind_of_processor_is_said(flags: set[str], said: str):
    assert script.dot_products(flags) == said
