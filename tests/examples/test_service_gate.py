"""The service's gate and its process for large photos, without a server."""

from __future__ import annotations

import importlib
import io
import multiprocessing
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery

pytest.importorskip("fastapi_offline")
from fastapi.testclient import TestClient

KEY = "a key of sixteen or more"
KEYED = {"x-api-key": KEY}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "service")
    return importlib.import_module("app")


def passed(gate: Any, *, key: str = KEY) -> list[dict[str, Any]]:
    """What the gate sends to a client whose body comes byte by byte."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await anyio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"x-api-key", key.encode()), (b"content-type", b"multipart/form-data; boundary=edge")]
    scope = {"type": "http", "method": "POST", "path": "/identify", "headers": headers}
    anyio.run(gate, scope, receive, send)
    return sent


def test_a_body_that_takes_too_long_is_given_up(app: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.05)
    sent = passed(app.Gate(None, KEY))
    assert sent[0]["status"] == 408
    assert b"must arrive within" in sent[1]["body"]


def test_keys_are_compared_in_constant_time(app: ModuleType, monkeypatch: pytest.MonkeyPatch):
    compared: list[tuple[bytes, ...]] = []
    monkeypatch.setattr(app.hmac, "compare_digest", lambda *keys: compared.append(keys))
    assert passed(app.Gate(None, KEY))[0]["status"] == 401  # nothing else decides
    assert compared == [(KEY.encode(), KEY.encode())]


def test_it_listens_on_this_machine_alone(
    app: ModuleType, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, Any] = {}
    monkeypatch.setattr(app.uvicorn, "run", lambda _, **options: asked.update(options))
    monkeypatch.setattr(sys, "argv", ["app.py", str(tiny_onnx), str(tmp_path / "people.gallery")])
    monkeypatch.setenv("EDGEFACE_KEY", KEY)
    app.main()
    assert asked["host"] == "127.0.0.1"


def test_large_photos_go_to_a_process_of_their_own_that_is_replaced(
    app: ModuleType, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(app, "RECYCLED", 2)
    white = io.BytesIO()
    Image.new("L", (2100, 2000), 255).save(white, "PNG")
    recognizer = FaceRecognizer(tiny_onnx)
    with Gallery.open(tmp_path / "people.gallery", recognizer) as gallery:
        apart = app.Apart(str(tiny_onnx), str(gallery.path))
        client = TestClient(app.create_app(recognizer, gallery, KEY, threshold=0.5, apart=apart))

        def ask() -> int:
            answer = client.post("/identify", files={"photo": ("a.png", white.getvalue(), "image/png")}, headers=KEYED)
            return answer.status_code, answer.headers.get("retry-after")

        assert [ask() for _ in range(2)] == [(200, None)] * 2
        first = {child.pid for child in multiprocessing.active_children()}
        assert ask() == (200, None)
        (second,) = (child for child in multiprocessing.active_children() if child.pid not in first)
        second.kill()
        second.join()
        assert ask() == (503, "1")
