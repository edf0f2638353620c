from __future__ import annotations

import json
import math
import os
import socket
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeface_runtime import Contract, ContractError
from edgeface_runtime.checks import MOST, Count, Positive, Span, build, parse_json, parse_toml, read_document
from edgeface_runtime.errors import GalleryError, UsageError
from edgeface_runtime.files import spreadsheet_safe, spreadsheet_text
from edgeface_runtime.tables import anything, numbers, read_table

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
# Minutes in make test-slow, a moment in make test.
EXAMPLES = pytest.mark.parametrize("examples", [50, pytest.param(20_000, marks=pytest.mark.slow)])


def said(error: Exception) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 1000


class Part(TypedDict):
    kind: Literal["a", "b"]
    note: NotRequired[str]


@dataclass(frozen=True, kw_only=True)
class Whole:
    name: str
    count: Count
    ms: Positive | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    parts: tuple[Part, ...] = ()
    flags: dict[str, bool] | None = None


SOUND = {"name": "x", "count": 1, "ms": 2, "pair": [1, 2.5], "parts": [{"kind": "a"}], "flags": {"on": True}}


def test_a_sound_document_is_built_into_its_types():
    made = build(Whole, SOUND | {"unknown": 1}, "whole")
    assert made == Whole(name="x", count=1, ms=2.0, pair=(1.0, 2.5), parts=(Part(kind="a"),), flags={"on": True})
    assert isinstance(made.ms, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 1}, "whole.name is not of type str: it is 1"),
        ({"count": -1}, "whole.count is -1 (int); it must be at least 0"),
        ({"count": 1.5}, "whole.count is not of type int"),
        ({"count": True}, "whole.count is not of type int"),
        ({"ms": 0}, "whole.ms is 0.0 (float); it must be above 0"),
        ({"ms": 10**400}, "whole.ms is too large"),
        ({"ms": math.inf}, "whole.ms is inf, not a finite number"),
        ({"pair": [1]}, "whole.pair has 1 values, not 2"),
        ({"pair": {"a": 1}}, "whole.pair is not a list"),
        ({"parts": [{"kind": "c"}]}, "whole.parts[0].kind is 'c' (str); it must be a or b"),
        ({"parts": [{}]}, "whole.parts[0] has no 'kind'"),
        ({"parts": [{"kind": "a", "note": []}]}, "whole.parts[0].note is not of type str"),
        ({"flags": []}, "whole.flags is not an object"),
        ({"name": "x" * 10**6, "count": "y" * 10**6}, "whole.count is not of type int"),
    ],
)
def test_what_does_not_fit_is_said_in_one_short_line(changes: dict[str, object], message: str):
    with pytest.raises(GalleryError) as caught:
        build(Whole, SOUND | changes, "whole", fails=GalleryError)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text",
    [
        *(
            "NaN",
            "[Infinity]",
            "1e999",
            "[" * 100_000,
            '{"a":' * 100_000,
            "[" * 40 + "]" * 40,
            '"\\ud800"',
            "",
            "{",
            "[1,]",
        ),
        "9" * 5000,
    ],
)
def test_documents_that_no_program_writes_are_none(text: str):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize(
    "text", ["a = nan", "a = -inf", "a = " + "[" * 50_000, "a = " + "[" * 40 + "]" * 40, "a = ", "x"]
)
def test_toml_likewise(text: str):
    with pytest.raises(ValueError, match=r"."):
        parse_toml(text)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_pipe, "a pipe, a device or a socket"),
        (a_socket, "a pipe, a device or a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe, a device or a socket"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (lambda path: path.write_bytes(b'["\xff"]'), "not JSON: not UTF-8 text at byte 2"),
        (lambda path: path.write_bytes("{}".encode("utf-16")), "not JSON: not UTF-8 text at byte 0"),
        (lambda path: path.write_bytes(b" " * (MOST + 1)), "larger than 4 MB"),
        (lambda path: path.write_text('{"name": "x"}'), "whole has no 'count'"),
    ],
)
def test_what_is_no_document_is_refused_at_once_and_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], message: str
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "whole.json"
    make(path)
    tracemalloc.start()
    for read in (lambda: read_document(path, Whole, "whole"), lambda: read_table(path, {"name": anything})):
        with pytest.raises(UsageError, match=r"whole\.json"):
            read()
    with pytest.raises(UsageError) as caught:
        read_document(path, Whole, "whole")
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nx\n", "has no column size; measure them"),
        ("name,size\nx\n", "line 2: has 1 of 2 cells"),
        ("name,size\nx,1\nx,1,2\n", "line 3: has 3 of 2 cells"),
        ("name,size,name\nx,1,y\n", "has the column 'name' twice"),
        ("name,size\nx,nan\n", "line 2: size is 'nan'; it must be a number at least 0"),
        ("name,size\nx,-1\n", "line 2: size is '-1'"),
        ("name,size\nx,1e999\n", "line 2: size is '1e999'"),
        ("name,size\nx\0,1\n", "line 2: name is 'x"),
        ('name,size\n"x,1\n', "cannot be read: unexpected end of data"),
        (f"name,size\n{'x' * 200_000},1\n", "line 2: cannot be read: field larger"),
        ("", "has no column name"),
    ],
)
def test_a_table_says_line_and_column(tmp_path: Path, text: str, message: str):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_table(path, {"name": anything, "size": numbers(1, Span(0))}, remedy="measure them")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20), min_size=1))
def test_names_like_formulas_are_none_in_a_csv_and_read_back_equal(names: list[str]):
    cells = spreadsheet_safe(names)
    assert not [cell for cell in cells if str(cell)[:1] in ("=", "+", "-", "@", "\t")]
    assert [spreadsheet_text(str(cell)) for cell in cells] == names


@EXAMPLES
def test_whatever_a_document_holds_it_is_built_or_refused(examples: int):
    @settings(max_examples=examples)
    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(SOUND, JSON)) | JSON)
    def check(document: object) -> None:
        given_ = SOUND | document if isinstance(document, dict) else document
        try:
            text = json.dumps(given_)
            made = build(Whole, parse_json(text), "whole")
        except (UsageError, ValueError) as error:
            said(error)
        else:
            assert made.count >= 0
            assert made.ms is None or 0 < made.ms < math.inf

    check()


@EXAMPLES
def test_whatever_stands_in_a_contract_it_is_one_or_none(examples: int):
    sound = {"name": "x", "backbone": "b", "embedding": {"length": 4}, "input": {"size": 32}, "golden": None}
    keys = [*sound, "thresholds", "accuracy", "operators", "cost", "versions", "schema", "calibration"]

    @settings(max_examples=examples)
    @given(st.sampled_from(keys), JSON)
    @example("operators", {"\x1f": None})
    @example("operators", {"9" * 100_000: None})
    def check(key: str, value: object) -> None:
        try:
            contract = Contract.from_json(json.dumps(sound | {key: value}))
        except ContractError as error:
            said(error)
        else:
            assert Contract.from_json(contract.to_json()) == contract

    check()


@EXAMPLES
def test_whatever_bytes_a_table_has_it_is_read_or_refused(tmp_path: Path, examples: int):
    path = tmp_path / "table.csv"

    @settings(max_examples=examples)
    @given(st.binary(max_size=60) | st.text(st.sampled_from('name,size"\n1x\0\r=é'), max_size=60).map(str.encode))
    def check(data: bytes) -> None:
        path.write_bytes(b"name,size\n" + data)
        try:
            rows = read_table(path, {"name": anything, "size": numbers(1)})
        except UsageError as error:
            said(error)
        else:
            assert all(math.isfinite(float(row["size"])) for row in rows)

    check()


def test_no_refusal_quotes_100_000_digits(tmp_path: Path):
    digits = "9" * 100_000
    wrong = ({"name": int(digits[:4000])}, {"name": "x", "count": digits}, {"name": "x", "parts": [{"kind": digits}]})
    for document in (*wrong, {"name": "x", "count": -int(digits[:4000])}, {"name": "x", "ms": [digits]}):
        with pytest.raises(UsageError) as refused:
            build(Whole, {"count": 1} | document, "whole")
        said(refused.value)
    for text in (digits, f"[1{digits}]", f"1{digits}.5", f"-{digits}e9", f'"{digits}'):
        for parse in (parse_json, parse_toml):
            with pytest.raises(ValueError) as refused:  # noqa: PT011 - said of any
                parse(text if parse is parse_json else f"a = {text}")
            said(refused.value)
    table = tmp_path / "table.csv"
    for text in (f"name\n1 {digits}\n", f"{digits},{digits},name\n", f"{digits}\n", f'name\n"{digits}\n'):
        table.write_text(text)
        with pytest.raises(UsageError) as refused:
            read_table(table, {"name": numbers(1)})
        said(refused.value)
