"""Faces over HTTP: who is known, who is this, are these two the same.

    pip install 'edgeface[web]'
    export EDGEFACE_KEY=$(openssl rand -hex 16)
    python app.py mobilefacenet people.gallery

http://127.0.0.1:8000/docs is the OpenAPI page, served from this machine; README.md beside this file has curl lines.
"""

from __future__ import annotations

import argparse
import hmac
import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Annotated, TypeVar

from PIL import Image

from edgeface_runtime import (
    EdgefaceError,
    EnrollmentError,
    FaceRecognizer,
    Gallery,
    Identity,
    ImageError,
    Match,
    MissingExtraError,
    Photo,
    UsageError,
)

try:
    import anyio
    import anyio.to_thread
    import uvicorn
    from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
    from fastapi.responses import JSONResponse
    from fastapi.security import APIKeyHeader
    from fastapi_offline import FastAPIOffline
    from starlette.datastructures import Headers
    from starlette.formparsers import MultiPartParser
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ModuleNotFoundError as absent:
    print(MissingExtraError(absent.name or "fastapi", "web"), file=sys.stderr)
    sys.exit(2)

KEY_HEADER = "X-API-Key"
HEALTH = "/health"
PUBLIC = ("/docs", "/openapi.json", "/static-offline-docs/")
"""What the OpenAPI page needs. All else but the sign of life needs the key, what is added later too."""
MAX_BODY = 10_000_000
"""Bytes of one request, checked while they arrive."""
MAX_PHOTOS = 2
"""In one request: /verify takes two."""
HEAVY, MAX_HEAVY = 1_000_000, 6
"""Bytes from which a request is heavy, and how many of such are taken at a time; beyond it they get 503, unread."""
BODY_SECONDS = 20.0
"""In which a request must have arrived. One that comes slowly costs no turn: it is worked on when it is here."""
LARGE = 4_000_000
"""Pixels from which photos have a turn of their own: 48 megapixels take a second or two, and no small photo waits."""
TURNS = ((2, 32), (1, 4))
"""Of small and large photos, how many are worked on at a time, and how many may wait; beyond it the answer is 503."""
MAX_CONNECTIONS = 800
"""Linux gives a process 1,024 files."""
RECYCLED = 50
"""Large photos after which their process is replaced."""
IDENTIFY_FAR, VERIFY_FAR = 1e-2, 1e-3
"""As `edgeface identify` and `edgeface verify` have them."""

# The first that fits. What is left (a full disk, a model that breaks its contract) is the service's fault.
STATUS = ((EnrollmentError, 409), (ImageError, 422), (UsageError, 422), (EdgefaceError, 500))

T = TypeVar("T")
PART = 1 << 16
GONE = 499
"""Nobody is there to be answered."""
HANG_UP = {"connection": "close"}
AGAIN = {"retry-after": "1"}
BUSY = HTTPException(503, "too much to do; try again in a second", HANG_UP | AGAIN)
TOO_LARGE = f"a request is at most {MAX_BODY / 1e6:.0f} MB"

# Uploads stay in memory: above a megabyte the parser would write them to a temporary file.
MultiPartParser.spool_max_size = MAX_BODY

Upload = Annotated[UploadFile, File(description="An image file, such as JPEG or PNG.")]


class Gate:
    """Turns away who has no key, and what is too large, too slow or no form; passes on what is here as a whole."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self.key = key.encode()
        self.heavy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        try:
            refused = self._refusal(scope) or await self._take(receive, body)
            if refused is None:
                await self.app(scope, _given(body, receive), send)
            elif refused.status_code != GONE:
                headers = HANG_UP | dict(refused.headers or {})
                await JSONResponse({"detail": refused.detail}, refused.status_code, headers)(scope, receive, send)
        finally:
            self.heavy -= len(body) > HEAVY

    async def _take(self, receive: Receive, body: bytearray) -> HTTPException | None:
        """Waits for the whole body."""
        with anyio.move_on_after(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return HTTPException(GONE)
                part = message.get("body", b"")
                if len(body) + len(part) > MAX_BODY:  # a length need not be told, and need not be true
                    return HTTPException(413, TOO_LARGE)
                if len(body) <= HEAVY < len(body) + len(part):
                    if self.heavy >= MAX_HEAVY:
                        return BUSY
                    self.heavy += 1
                body += part
                if not message.get("more_body"):
                    return None
        return HTTPException(408, f"a request must arrive within {BODY_SECONDS:.0f} seconds")

    def _refusal(self, scope: Scope) -> HTTPException | None:
        if scope["path"] == HEALTH or scope["path"].startswith(PUBLIC):
            return None
        headers = Headers(scope=scope)
        if not hmac.compare_digest(headers.get(KEY_HEADER, "").encode(), self.key):
            return HTTPException(401, f"the header {KEY_HEADER} must hold the service's key")
        length = int(headers.get("content-length", 0))
        if length > MAX_BODY:
            return HTTPException(413, TOO_LARGE)
        kind = headers.get("content-type", "nothing").split(";")[0]
        if scope["method"] == "POST" and kind != "multipart/form-data":
            return HTTPException(415, f"send photos as multipart/form-data, not as {kind}")
        return BUSY if length > HEAVY and self.heavy >= MAX_HEAVY else None


def create_app(
    recognizer: FaceRecognizer,
    gallery: Gallery,
    key: str,
    *,
    far: float = IDENTIFY_FAR,
    verify_far: float = VERIFY_FAR,
    threshold: float | None = None,
    apart: Apart | None = None,
) -> FastAPI:
    """The service.

    Args:
        recognizer: used from several threads at once.
        gallery: opened with that recognizer.
        key: what ``X-API-Key`` must hold.
        far: FPIR of /identify: share of unenrolled people's photos that may get a name.
        verify_far: FMR of /verify: share of impostor pairs that may be accepted.
        threshold: the score that is enough, in place of both, for a model without measured thresholds.
        apart: the process for large photos; they are worked on in a thread of this one where None.
    """

    app = FastAPIOffline(
        redoc_url=None,
        title="edgeface",
        description=f"A request is at most {MAX_BODY / 1e6:.0f} MB and holds at most {MAX_PHOTOS} photos.",
        form_limits={"max_files": MAX_PHOTOS, "max_fields": 4, "max_part_size": 4096},
        # The gate enforces the key; this tells the OpenAPI page about it.
        dependencies=[Depends(APIKeyHeader(name=KEY_HEADER, auto_error=False))],
    )
    app.add_middleware(Gate, key=key)
    app.add_exception_handler(EdgefaceError, _failed)

    small, large = (Turn(*limits) for limits in TURNS)

    async def work(function: Callable[..., T], *arguments: object) -> T:
        """Calls the function, with the recognizer and the gallery in front, when it is its turn."""
        if not any(_is_large(photo) for photo in arguments if isinstance(photo, bytes)):
            return await small.take(lambda: function(recognizer, gallery, *arguments))
        if apart is None:
            return await large.take(lambda: function(recognizer, gallery, *arguments))
        return await large.take(lambda: apart.call(function, *arguments))

    @app.get(HEALTH, include_in_schema=False)
    def health() -> dict[str, str]:
        """For a supervisor: the service answers and can read its gallery. Says nothing about who is in it."""
        len(gallery)
        return {"status": "ok"}

    @app.get("/people")
    async def people() -> list[Photo]:
        """All enrolled photos; of each the embedding is kept and the photo is not."""
        return await work(_photos)

    @app.post("/people", status_code=201)
    async def enroll(name: Annotated[str, Form()], photo: Upload, force: Annotated[bool, Form()] = False) -> Photo:
        """Learn a person by one more photo. 409: the photo is not good enough, and why; `force` takes it."""
        return await work(_enroll, name, await _bytes(photo), force)

    @app.delete("/people/{name:path}")
    async def forget(name: str) -> dict[str, int]:
        """Remove a person and overwrite what was stored."""
        name = unicodedata.normalize("NFC", name)
        if not any(photo.name == name for photo in await work(_photos)):
            raise HTTPException(404, f"nobody is called {name}")
        return {"removed": await work(_remove, name)}

    @app.post("/identify")
    async def identify(photo: Upload) -> list[Identity]:
        """Who the faces of a photo are; a name of null is somebody who is not enrolled."""
        return await work(_identify, await _bytes(photo), far, threshold)

    @app.post("/verify")
    async def verify(a: Upload, b: Upload) -> Match:
        """Whether two photos show the same person."""
        return await work(_verify, await _bytes(a), await _bytes(b), verify_far, threshold)

    return app


# What is asked, as functions that another process knows by their names.
def _photos(_: FaceRecognizer, gallery: Gallery) -> list[Photo]:
    return gallery.photos()


def _enroll(_: FaceRecognizer, gallery: Gallery, name: str, photo: bytes, force: bool) -> Photo:
    return gallery.enroll(name, photo, force=force)


def _remove(_: FaceRecognizer, gallery: Gallery, name: str) -> int:
    return gallery.remove(name)


def _identify(
    recognizer: FaceRecognizer, gallery: Gallery, photo: bytes, far: float, threshold: float | None
) -> list[Identity]:
    return recognizer.identify(photo, gallery, far, threshold=threshold)


def _verify(recognizer: FaceRecognizer, _: Gallery, a: bytes, b: bytes, far: float, threshold: float | None) -> Match:
    return recognizer.verify(a, b, far, threshold=threshold)


class Apart:
    """A process for large photos that yields to the service, and is replaced by a new one after some photos.

    What such a photo takes of memory goes back to the system with it, and a photo that ends it ends nothing else.
    """

    def __init__(self, model: str, gallery: str) -> None:
        self._opens = (model, gallery)
        self._pool = self._new()

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Calls the function there; 503 where the process was killed."""
        try:
            return self._pool.submit(_there, function, *arguments).result()
        except BrokenProcessPool as error:
            self._pool = self._new()
            raise HTTPException(503, "the photo took too much memory; send a smaller one", AGAIN) from error

    def _new(self) -> ProcessPoolExecutor:
        spawn = get_context("spawn")
        return ProcessPoolExecutor(
            1, mp_context=spawn, initializer=_start, initargs=self._opens, max_tasks_per_child=RECYCLED
        )


_OPENED: list[tuple[FaceRecognizer, Gallery]] = []


def _start(model: str, gallery: str) -> None:
    """In the process for large photos: opens its own model and gallery, and ends with the service."""
    os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    service = parent_process()
    assert service is not None
    threading.Thread(target=lambda: (service.join(), os._exit(1)), daemon=True).start()
    recognizer = FaceRecognizer(model)
    _OPENED.append((recognizer, Gallery(gallery, recognizer)))


def _there(function: Callable[..., T], *arguments: object) -> T:
    return function(*_OPENED[0], *arguments)


class Turn:
    """Threads for one kind of requests, and those who wait for one."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self.limiter, self.waiting = anyio.CapacityLimiter(at_once), waiting

    async def take(self, function: Callable[[], T]) -> T:
        """Calls the function in a thread; 503 where too many wait already."""
        if self.limiter.statistics().tasks_waiting >= self.waiting:
            raise BUSY
        return await anyio.to_thread.run_sync(function, limiter=self.limiter)


def _given(body: bytearray, receive: Receive) -> Receive:
    """Gives a body that is here, in parts between which others have their turn."""
    starts = iter(range(0, max(len(body), 1), PART))

    async def received() -> Message:
        await anyio.sleep(0)
        start = next(starts, None)
        if start is None:
            return await receive()
        part = bytes(body[start : start + PART])
        return {"type": "http.request", "body": part, "more_body": start + PART < len(body)}

    return received


def _is_large(photo: bytes) -> bool:
    """By what the file says of itself; what is no image, or says something untrue, is refused when it is opened."""
    try:
        with Image.open(io.BytesIO(photo)) as image:
            return image.width * image.height > LARGE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


async def _bytes(upload: UploadFile) -> bytes:
    if not (upload.content_type or "").startswith("image/"):
        raise HTTPException(415, f"{upload.filename}: send an image, not {upload.content_type}")
    return await upload.read()


def _failed(_: Request, error: Exception) -> JSONResponse:
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    return JSONResponse({"detail": str(error)}, status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="exported .onnx or .tflite file, or a name of `edgeface models`")
    parser.add_argument("gallery", help="gallery file; made where there is none")
    parser.add_argument(
        "--far",
        type=float,
        default=IDENTIFY_FAR,
        help="FPIR of /identify: share of unenrolled people's photos that may get a name (%(default)s)",
    )
    parser.add_argument(
        "--verify-far",
        type=float,
        default=VERIFY_FAR,
        help="FMR of /verify: share of impostor pairs that may be accepted (%(default)s)",
    )
    parser.add_argument("--threshold", type=float, help="score that is enough, in place of both")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    key = os.environ.get("EDGEFACE_KEY", "")
    if len(key) < 16:
        parser.exit(2, "set EDGEFACE_KEY to a secret of at least 16 characters, such as: openssl rand -hex 16\n")
    try:
        recognizer = FaceRecognizer(arguments.model)
        with Gallery(arguments.gallery, recognizer) as gallery:
            limits = {"far": arguments.far, "verify_far": arguments.verify_far, "threshold": arguments.threshold}
            app = create_app(recognizer, gallery, key, **limits, apart=Apart(arguments.model, arguments.gallery))
            uvicorn.run(app, host=arguments.host, port=arguments.port, limit_concurrency=MAX_CONNECTIONS)
    except EdgefaceError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
