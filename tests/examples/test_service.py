from __future__ import annotations

import contextlib
import http.client
import importlib
import inspect
import io
import json
import re
import select
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime import FaceRecognizer, Gallery
from edgeface_runtime.testing import fake_photo, fake_recognizer

pytest.importorskip("fastapi_offline")

FOLDER = Path(__file__).parents[2] / "examples" / "service"
KEY = "a key of sixteen or more"
# The example as it is, around a recognizer that needs no model. The socket comes from the test, bound and listening;
# an upload that went to a temporary file would fail.
SERVE = """
import socket, sys, tempfile, uvicorn
tempfile.TemporaryFile = None
import app
from edgeface_runtime import Gallery
from edgeface_runtime.testing import fake_recognizer
recognizer = fake_recognizer()
with Gallery.open(sys.argv[1], recognizer) as gallery:
    config = uvicorn.Config(app.create_app(recognizer, gallery, sys.argv[2]), log_level="warning")
    uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[3]))])
"""
Part = tuple[str, str | bytes] | tuple[str, bytes, str]


@dataclass(frozen=True)
class Service:
    port: int
    process: subprocess.Popen[str]
    gallery: Path

    def ask(self, method: str, path: str, *parts: Part, key: str | None = KEY) -> tuple[int, Any]:
        """Status and answer; a part is a text field, or an image, or bytes of a given type."""
        body, kind = form(parts) if parts else (None, None)
        sent = {"content-type": kind, "x-api-key": key}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
            reply = connection.getresponse()
            text = reply.read()
            return reply.status, json.loads(text) if "json" in reply.headers["content-type"] else text.decode("latin-1")
        finally:
            connection.close()

    def peak_kb(self) -> int:
        """The most memory that the service ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


def form(parts: tuple[Part, ...]) -> tuple[bytes, str]:
    lines = []
    for name, value, *kind in parts:
        file = f'; filename="{name}.png"\r\ncontent-type: {kind[0] if kind else "image/png"}'
        head = f'--edge\r\ncontent-disposition: form-data; name="{name}"{"" if isinstance(value, str) else file}'
        lines.append(head.encode() + b"\r\n\r\n" + (value.encode() if isinstance(value, str) else value) + b"\r\n")
    return b"".join([*lines, b"--edge--\r\n"]), "multipart/form-data; boundary=edge"


def photo(*people: int, take: int = 0) -> bytes:
    """A PNG file of fake people side by side."""
    file = io.BytesIO()
    Image.fromarray(np.hstack([fake_photo(person, take) for person in people])).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    gallery = tmp_path_factory.mktemp("service") / "people.gallery"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, gallery, KEY, str(number)], cwd=FOLDER, pass_fds=[number], text=True
        )
        port = listening.getsockname()[1]
    yield Service(port, process, gallery)
    process.terminate()
    assert process.wait(20) == 0 or process.returncode < 0


def test_a_person_is_enrolled_known_listed_and_forgotten(service: Service):
    status, enrolled = service.ask("POST", "/people", ("name", "Ada"), ("photo", photo(1)), ("force", "true"))
    assert (status, enrolled["name"]) == (201, "Ada")
    _, listed = service.ask("GET", "/people")
    assert [row["name"] for row in listed] == ["Ada"]
    assert "embedding" not in listed[0]

    recognizer = fake_recognizer()
    with Gallery.open(service.gallery, recognizer) as gallery:  # the oracle: the same call without a service
        expected = recognizer.identify(photo(1, 2, take=1), gallery)
    status, found = service.ask("POST", "/identify", ("photo", photo(1, 2, take=1)))
    assert status == 200
    assert [(face["name"], face["score"], tuple(face["box"])) for face in found] == [
        (face.name, pytest.approx(face.score, abs=1e-6), face.box) for face in expected
    ]
    assert {face["name"] for face in found} == {"Ada", None}

    assert service.ask("DELETE", "/people/Ada") == (200, {"removed": 1})
    assert service.ask("DELETE", "/people/Ada") == (404, {"detail": "nobody is called Ada"})
    assert service.ask("GET", "/people")[1] == []


def test_a_name_of_any_kind_can_be_removed_again(service: Service):
    for name in ("Zoe\u0308", "a/b", "Ada Lovelace"):
        status, answer = service.ask("POST", "/people", ("name", name), ("photo", photo(7)), ("force", "true"))
        assert status == 201, answer
        assert service.ask("DELETE", f"/people/{urllib.parse.quote(name)}")[0] == 200


def test_two_photos_are_compared(service: Service):
    for other, same in ((1, True), (2, False)):
        status, match = service.ask("POST", "/verify", ("a", photo(1)), ("b", photo(other, take=1)))
        assert (status, match["same"]) == (200, same)
        assert match["far"] == default_far("verify")


def test_a_name_is_given_at_the_rate_of_the_command_and_of_python(service: Service):
    service.ask("POST", "/people", ("name", "Ada"), ("photo", photo(1)))
    status, (face,) = service.ask("POST", "/identify", ("photo", photo(1, take=1)))
    assert (status, face["name"], face["far"]) == (200, "Ada", default_far("identify"))
    assert service.ask("DELETE", "/people/Ada")[0] == 200


def default_far(verb: str) -> float:
    """Of the Python method and of the command, which are the same."""
    module = importlib.import_module(f"edgeface.cli.{verb}")
    method, command = (
        inspect.signature(function).parameters["far"].default
        for function in (getattr(FaceRecognizer, verb), getattr(module, verb))
    )
    assert method == command
    return method


@pytest.mark.parametrize(
    ("path", "parts", "status", "detail"),
    [
        ("/identify", [("photo", b"no image")], 422, "not an image"),
        ("/identify", [("photo", b"")], 422, "empty"),
        ("/identify", [("photo", photo(1), "application/pdf")], 415, "send an image, not application/pdf"),
        ("/identify", [("other", photo(1))], 422, "photo"),
        ("/verify", [("a", photo(1)), ("b", b"\x89PNG\r\n\x1a\n")], 422, "the image"),
        ("/people", [("name", "Ada"), ("photo", photo(1, 2))], 409, "2 faces"),
        ("/people", [("name", "x" * 300), ("photo", photo(1)), ("force", "true")], 422, "1 to 200"),
        ("/people", [("name", "x" * 5000), ("photo", photo(1))], 400, "maximum size"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(
    service: Service, path: str, parts: list[Part], status: int, detail: str
):
    code, answer = service.ask("POST", path, *parts)
    assert code == status, answer
    assert detail in str(answer["detail"])
    assert "Traceback" not in str(answer)


def test_another_content_type_is_refused_unread(service: Service):
    body = photo(1)
    for kind in ("image/png", "application/json", "text/plain"):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=600)
        connection.request("POST", "/identify", body, {"content-type": kind, "x-api-key": KEY})
        reply = connection.getresponse()
        assert reply.status == 415
        assert json.loads(reply.read())["detail"] == f"send photos as multipart/form-data, not as {kind}"
        connection.close()


@pytest.mark.parametrize("key", [None, "", KEY[:-1], KEY + "x", "\xe9" * 20])
def test_nothing_is_answered_without_the_key(service: Service, key: str | None):
    for method, path in (("GET", "/people"), ("POST", "/identify"), ("DELETE", "/people/Ada"), ("GET", "/nothing")):
        status, answer = service.ask(method, path, key=key)
        assert (status, answer["detail"]) == (401, "the header X-API-Key must hold the service's key")


def test_a_supervisor_asks_for_a_sign_of_life_without_the_key(service: Service):
    assert service.ask("GET", "/health", key=None) == (200, {"status": "ok"})
    assert service.ask("POST", "/health", key=None)[0] == 405
    assert service.ask("GET", "/healthy", key=None)[0] == 401
    assert service.ask("GET", "/health/../people", key=None)[0] == 401


def test_ten_thousand_images_in_one_request_are_refused(service: Service):
    small = b"\x89PNG\r\n\x1a\n" + bytes(64)
    status, answer = service.ask("POST", "/identify", *[("photo", small)] * 10_000)
    assert (status, answer["detail"]) == (400, "Too many files. Maximum number of files is 2.")


@pytest.mark.parametrize("told", [True, False], ids=["length", "chunked"])
def test_a_gigabyte_is_refused_early_and_memory_stays_flat(service: Service, told: bool):
    service.ask("POST", "/identify", ("photo", photo(1)))
    before = service.peak_kb()
    total, piece = 10**9, bytes(1 << 16)
    framing = f"content-length: {total}" if told else "transfer-encoding: chunked"
    chunk = piece if told else b"%x\r\n" % len(piece) + piece + b"\r\n"
    start = (
        f"POST /identify HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n{framing}\r\n"
        "content-type: multipart/form-data; boundary=edge\r\n\r\n"
    ).encode()
    opening = form((("photo", b""),))[0].removesuffix(b"\r\n--edge--\r\n")
    opening = opening if told else b"%x\r\n" % len(opening) + opening + b"\r\n"
    sent, reply = 0, b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=600) as client:
        client.sendall(start + opening)
        with contextlib.suppress(ConnectionError):  # the service hangs up while we still send
            while sent < total and not select.select([client], [], [], 0)[0]:
                client.sendall(chunk)
                sent += len(piece)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(1 << 16):
                reply += part
    assert reply.startswith(b"HTTP/1.1 413")
    assert b"a request is at most 10 MB" in reply
    assert sent < 40e6  # the limit, and what the sockets' buffers hold
    assert service.peak_kb() - before < 40_000
    assert service.ask("GET", "/people")[0] == 200


def test_many_clients_at_once_get_their_own_answers(service: Service):
    service.ask("POST", "/people", ("name", "Ada"), ("photo", photo(1)), ("force", "true"))
    service.ask("POST", "/people", ("name", "Bob"), ("photo", photo(300)), ("force", "true"))

    def ask(number: int) -> list[str | None]:
        person = (1, 300, 20)[number % 3]
        status, found = service.ask("POST", "/identify", ("photo", photo(person, take=number)))
        assert status == 200, found
        return [face["name"] for face in found]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    assert answers == [[("Ada", "Bob", None)[number % 3]] for number in range(24)]


def test_the_openapi_page_comes_from_this_machine(service: Service):
    status, page = service.ask("GET", "/docs", key=None)
    assert status == 200
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    for link in re.findall(r"""(?:src|href)=["']([^"']+)""", page):
        assert service.ask("GET", link, key=None)[0] == 200
    schema = service.ask("GET", "/openapi.json", key=None)[1]
    assert {path: sorted(verbs) for path, verbs in schema["paths"].items()} == {
        "/people": ["get", "post"],
        "/people/{name}": ["delete"],
        "/identify": ["post"],
        "/verify": ["post"],
    }
    assert all("security" in operation for verbs in schema["paths"].values() for operation in verbs.values())


def test_no_photo_is_kept(service: Service):
    big = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3)).astype(np.uint8)  # above the parser's megabyte
    file = io.BytesIO()
    Image.fromarray(big).save(file, "BMP")
    assert len(file.getvalue()) > 3e6
    assert service.ask("POST", "/people", ("name", "Ada"), ("photo", file.getvalue()), ("force", "true"))[0] == 201
    assert [path.name for path in service.gallery.parent.iterdir()] == ["people.gallery"]
    assert service.gallery.stat().st_size < 100_000


def test_it_does_not_start_with_a_key_that_can_be_guessed(tiny_onnx: Path, tmp_path: Path):
    command = [sys.executable, FOLDER / "app.py", tiny_onnx, tmp_path / "people.gallery"]
    done = subprocess.run(command, env={"EDGEFACE_KEY": "short"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "set EDGEFACE_KEY to a secret of at least 16 characters, such as: openssl rand -hex 16"
    ]


def open_request(service: Service, body: bytes, length: int, key: str = KEY) -> socket.socket:
    """A connection that has sent the head of a request and a part of its body."""
    client = socket.create_connection(("127.0.0.1", service.port), timeout=600)
    head = (
        f"POST /identify HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: {length}\r\n"
        "content-type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    client.sendall(head.encode() + body)
    return client


def test_slow_bodies_and_those_that_end_early_keep_nobody_waiting(service: Service):
    slow = [open_request(service, b"--edge\r\n", 100_000) for _ in range(100)]
    try:
        for client in slow[:20]:
            client.close()  # their length was a lie
        assert service.ask("POST", "/identify", ("photo", photo(1)))[0] == 200
        assert service.ask("GET", "/health", key=None)[0] == 200
    finally:
        for client in slow:
            client.close()


def test_heavy_requests_beyond_a_few_are_sent_away_with_a_hint_and_small_ones_are_not(service: Service):
    heavy = [open_request(service, bytes(2_000_000), 3_000_000) for _ in range(6)]
    try:
        until = time.monotonic() + 60
        while True:  # until the six are being read
            client = open_request(service, b"", 3_000_000)
            client.settimeout(0.2)
            with client, contextlib.suppress(TimeoutError):
                reply = client.recv(1 << 16).decode()
                break
            assert time.monotonic() < until
        assert reply.startswith("HTTP/1.1 503")
        assert "retry-after: 1" in reply
        assert service.ask("POST", "/identify", ("photo", photo(1)))[0] == 200
    finally:
        for client in heavy:
            client.close()
