import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeface.data.audit import histogram, inspect, suspects
from edgeface.data.table import COLUMNS, REJECTED_COLUMNS, write_card, write_table
from edgeface_runtime.errors import UsageError

SIZE = 16


def make_folder(folder: Path, *, wrong: int | None = None) -> Path:
    """Three people of four faces each, told apart by colour; face ``wrong`` has the next person's colour."""
    colours = np.array([[250, 5, 5], [5, 250, 5], [5, 5, 250]])
    rows = []
    for number in range(12):
        person = number // 4
        colour = colours[(person + (number == wrong)) % 3]
        path = f"faces/p{person}/{number}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(-5, 6, (SIZE, SIZE, 3))
        Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(folder / path)
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {"path": path, "identity": f"p{person}", "label": person, "source": f"p{person}/<{number}>.jpg"}
            | {"score": 0.9, "sharpness": 10 * number, "size": 40 + number, "yaw": number - 6, "sha256": str(number)}
        )
    rows[5]["duplicate_of"] = rows[0]["path"]
    write_table(folder / "faces.csv", COLUMNS, rows, folder)
    rejected = [{"source": "p0/x.jpg", "identity": "p0", "reason": "no face", "detail": "none"}]
    write_table(folder / "rejected.csv", REJECTED_COLUMNS, rejected, folder)
    counts = {
        "photos": 13,
        "faces": 12,
        "identities": 3,
        "rejected": 1,
        "duplicates": 1,
        "duplicates_across_identities": 1,
    }
    card = {"name": "three & more", "licence": "none", "counts": counts, "rejected": {"no face": 1}, "split": None}
    card |= {"settings": {"detector": "fake", "size": SIZE}, "versions": {"edgeface": "0"}}
    card |= {"schema": 1, "layout": "folders", "faces_sha256": ""}
    write_card(folder, card, folder)
    return folder


def mean_colour(faces: np.ndarray) -> np.ndarray:
    return faces.reshape(len(faces), -1, 3).mean(axis=1).astype(np.float32)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    inspect(folder, tmp_path / "new/page.html")
    text = (tmp_path / "new/page.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.links
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert "three &amp; more" in text
    assert "p0/&lt;1&gt;.jpg" in text
    assert "One photo, two names" in text
    assert "Is this the right name?" not in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_wrong_name_is_suspected(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, wrong=6)
    summary = inspect(folder, tmp_path / "page.html", embed=mean_colour, size=SIZE)
    (found,) = summary["suspects"]
    assert (found["path"], found["identity"], found["nearer_to"]) == ("faces/p1/6.png", "p1", "p2")
    assert found["nearer_cosine"] > 0.95
    assert "Is this the right name?" in (tmp_path / "page.html").read_text()
    assert (
        inspect(make_folder(tmp_path / "right"), tmp_path / "page.html", embed=mean_colour, size=SIZE)["suspects"] == []
    )


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 5))
def test_suspects_as_the_slow_form_says(seed: int, count: int, people: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 4))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels = np.unique(rng.integers(0, people, count), return_inverse=True)[1]

    def cosine(row: int, members: list[int]) -> float:
        centre = rows[members].astype(np.float64).mean(axis=0)
        return float(rows[row] @ centre / np.linalg.norm(centre))

    expected = {}
    for row in range(count):
        mine = [other for other in range(count) if labels[other] == labels[row] and other != row]
        others = [
            [r for r in range(count) if labels[r] == label] for label in range(labels.max() + 1) if label != labels[row]
        ]
        if mine and others and max(cosine(row, members) for members in others) > cosine(row, mine):
            expected[row] = (cosine(row, mine), max(cosine(row, members) for members in others))
    found = {suspect.row: (suspect.own, suspect.other) for suspect in suspects(rows, labels)}
    assert found.keys() == expected.keys()
    for row, cosines in found.items():
        assert cosines == pytest.approx(expected[row], abs=1e-4)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=200))
def test_histogram_counts_everything_once(values: list[float]) -> None:
    bars = histogram(values)
    assert sum(bar.count for bar in bars) == len(values)
    assert len(bars) <= 30


def test_histogram_of_known_values() -> None:
    bars = histogram([0.0, 0.4, 1.0, 2.5, 2.9], bins=3)
    assert [(bar.label, bar.count) for bar in bars] == [("0 to 1", 2), ("1 to 2", 1), ("2 to 3", 2)]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data prepare"):
        inspect(tmp_path, tmp_path / "page.html")
    folder = make_folder(tmp_path / "made")
    with pytest.raises(UsageError, match="cannot write"):
        inspect(folder, Path("/proc/page.html"))
    write_table(folder / "faces.csv", COLUMNS, [], folder)
    with pytest.raises(UsageError, match="no face"):
        inspect(folder, tmp_path / "page.html")
