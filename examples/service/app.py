"""Faces over HTTP: who is known, who is this, are these two the same.

    pip install 'edgeface[web]'
    export EDGEFACE_KEY=$(openssl rand -hex 16)
    python app.py mobilefacenet people.gallery

http://127.0.0.1:8000/docs is the OpenAPI page, served from this machine; README.md beside this file has curl lines.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import os
import sys
import unicodedata
from collections.abc import AsyncIterator
from typing import Annotated

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
WORKERS = 2
"""Requests worked on at a time: each holds a decoded photo."""
MAX_CONNECTIONS = 16
"""Requests taken at a time; beyond it the answer is 503. Times MAX_BODY, the most memory that uploads hold."""
IDENTIFY_FAR, VERIFY_FAR = 1e-2, 1e-3
"""As `edgeface identify` and `edgeface verify` have them."""

# The first that fits. What is left (a full disk, a model that breaks its contract) is the service's fault.
STATUS = ((EnrollmentError, 409), (ImageError, 422), (UsageError, 422), (EdgefaceError, 500))

HANG_UP = {"connection": "close"}
TOO_LARGE = f"a request is at most {MAX_BODY / 1e6:.0f} MB"

# Uploads stay in memory: above a megabyte the parser would write them to a temporary file.
MultiPartParser.spool_max_size = MAX_BODY

Upload = Annotated[UploadFile, File(description="An image file, such as JPEG or PNG.")]


class Gate:
    """Turns away who has no key, and what is too large or no form, and hangs up instead of reading it to the end."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self.key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope) if scope["type"] == "http" else None
        if refused:
            await JSONResponse({"detail": refused.detail}, refused.status_code, HANG_UP)(scope, receive, send)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:  # a length need not be told, and need not be true
                raise HTTPException(413, TOO_LARGE, HANG_UP)
            return message

        await self.app(scope, limited, send)

    def _refusal(self, scope: Scope) -> HTTPException | None:
        if scope["path"] == HEALTH or scope["path"].startswith(PUBLIC):
            return None
        headers = Headers(scope=scope)
        if not hmac.compare_digest(headers.get(KEY_HEADER, "").encode(), self.key):
            return HTTPException(401, f"the header {KEY_HEADER} must hold the service's key")
        if int(headers.get("content-length", 0)) > MAX_BODY:
            return HTTPException(413, TOO_LARGE)
        kind = headers.get("content-type", "nothing").split(";")[0]
        if scope["method"] == "POST" and kind != "multipart/form-data":
            return HTTPException(415, f"send photos as multipart/form-data, not as {kind}")
        return None


def create_app(
    recognizer: FaceRecognizer,
    gallery: Gallery,
    key: str,
    *,
    far: float = IDENTIFY_FAR,
    verify_far: float = VERIFY_FAR,
    threshold: float | None = None,
) -> FastAPI:
    """The service.

    Args:
        recognizer: used from several threads at once.
        gallery: opened with that recognizer.
        key: what ``X-API-Key`` must hold.
        far: FPIR of /identify: share of unenrolled people's photos that may get a name.
        verify_far: FMR of /verify: share of impostor pairs that may be accepted.
        threshold: the score that is enough, in place of both, for a model without measured thresholds.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = WORKERS
        yield

    app = FastAPIOffline(
        redoc_url=None,
        title="edgeface",
        description=f"A request is at most {MAX_BODY / 1e6:.0f} MB and holds at most {MAX_PHOTOS} photos.",
        lifespan=lifespan,
        form_limits={"max_files": MAX_PHOTOS, "max_fields": 4, "max_part_size": 4096},
        # The gate enforces the key; this tells the OpenAPI page about it.
        dependencies=[Depends(APIKeyHeader(name=KEY_HEADER, auto_error=False))],
    )
    app.add_middleware(Gate, key=key)
    app.add_exception_handler(EdgefaceError, _failed)

    # Plain functions: FastAPI runs each in a thread, so that the loop goes on serving.
    @app.get(HEALTH, include_in_schema=False)
    def health() -> dict[str, str]:
        """For a supervisor: the service answers and can read its gallery. Says nothing about who is in it."""
        len(gallery)
        return {"status": "ok"}

    @app.get("/people")
    def people() -> list[Photo]:
        """All enrolled photos; of each the embedding is kept and the photo is not."""
        return gallery.photos()

    @app.post("/people", status_code=201)
    def enroll(name: Annotated[str, Form()], photo: Upload, force: Annotated[bool, Form()] = False) -> Photo:
        """Learn a person by one more photo. 409: the photo is not good enough, and why; `force` takes it."""
        return gallery.enroll(name, _bytes(photo), force=force)

    @app.delete("/people/{name:path}")
    def forget(name: str) -> dict[str, int]:
        """Remove a person and overwrite what was stored."""
        name = unicodedata.normalize("NFC", name)
        if not any(photo.name == name for photo in gallery.photos()):
            raise HTTPException(404, f"nobody is called {name}")
        return {"removed": gallery.remove(name)}

    @app.post("/identify")
    def identify(photo: Upload) -> list[Identity]:
        """Who the faces of a photo are; a name of null is somebody who is not enrolled."""
        return recognizer.identify(_bytes(photo), gallery, far, threshold=threshold)

    @app.post("/verify")
    def verify(a: Upload, b: Upload) -> Match:
        """Whether two photos show the same person."""
        return recognizer.verify(_bytes(a), _bytes(b), verify_far, threshold=threshold)

    return app


def _bytes(upload: UploadFile) -> bytes:
    if not (upload.content_type or "").startswith("image/"):
        raise HTTPException(415, f"{upload.filename}: send an image, not {upload.content_type}")
    return upload.file.read()


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
            rates = {"far": arguments.far, "verify_far": arguments.verify_far}
            app = create_app(recognizer, gallery, key, **rates, threshold=arguments.threshold)
            uvicorn.run(app, host=arguments.host, port=arguments.port, limit_concurrency=MAX_CONNECTIONS)
    except EdgefaceError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
