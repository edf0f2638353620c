"""Small photos while 500 connections do their worst: what the HTTP service answers, and how fast.

    python benchmarks/service.py                      the service of examples/service
    python benchmarks/service.py --app other/app.py   another build of it

Idle and load take turns, each a round of the same small photos one after another. The load: of 500 connections a fifth
each sends its body a byte a second, says a wrong length and hangs up, sends another type, sends no key, and sends large
bodies that are no image, but for 20 that send photos of 48 megapixels. Each begins anew 3 seconds after its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import io
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from edgeface.data.att import att_folder

APP = Path(__file__).parents[1] / "examples" / "service" / "app.py"
KEY = secrets.token_hex(16)
CONNECTIONS, PAUSE = 500, 3.0


def form(photo: bytes, kind: str = "image/jpeg") -> bytes:
    head = f'--edge\r\ncontent-disposition: form-data; name="photo"; filename="a.jpg"\r\ncontent-type: {kind}\r\n\r\n'
    return head.encode() + photo + b"\r\n--edge--\r\n"


def request(body: bytes, *, key: str = "", kind: str = "multipart/form-data; boundary=edge", length: int = -1) -> bytes:
    lines = [
        "POST /identify HTTP/1.1", "host: x", f"x-api-key: {key or KEY}", f"content-type: {kind}", "connection: close",
        f"content-length: {len(body) if length < 0 else length}",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def photo(width: int, height: int) -> bytes:
    """A face of AT&T in a picture of this size, as JPEG."""
    face = Image.open(att_folder() / "s1" / "1.pgm").convert("RGB").resize((height // 2 * 92 // 112, height // 2))
    noise = np.random.default_rng(0).integers(60, 180, (height // 8, width // 8, 3)).astype(np.uint8)
    picture = Image.fromarray(noise).resize((width, height))
    picture.paste(face, (width // 4, height // 4))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


async def hostile(number: int, port: int, seen: Counter[str], bodies: dict[str, bytes]) -> None:
    """One connection after another, until it is cancelled."""
    kind = ("slow", "lying", "another type", "no key", "no image")[number % 5] if number >= 20 else "48 megapixels"
    await asyncio.sleep(PAUSE * number / CONNECTIONS)
    while True:
        answer = "no answer"
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                if kind == "slow":
                    writer.write(request(b"", length=100_000))
                    while not reader.at_eof() and not (reader._buffer):  # type: ignore[attr-defined]
                        writer.write(b"x")
                        await writer.drain()
                        await asyncio.sleep(1)
                elif kind == "lying":
                    writer.write(request(bodies["small"][:1000], length=200_000))
                    await writer.drain()
                    await asyncio.sleep(0.5)
                    writer.close()
                    continue
                else:
                    writer.write(bodies[kind])
                    await writer.drain()
                answer = (await reader.readline()).decode().strip()[9:12] or answer
                await reader.read()
            finally:
                writer.close()
                seen[f"{kind}: {answer}"] += 1
        await asyncio.sleep(PAUSE)


def attack(port: int, told: object) -> None:
    """A process of hostile connections, until it is told to end; gives what they were answered."""
    os.nice(10)
    seen: Counter[str] = Counter()
    bodies = {
        "small": form(photo(320, 240)),
        "48 megapixels": request(form(photo(8000, 6000))),
        "another type": request(form(photo(320, 240)), kind="image/jpeg"),
        "no key": request(form(photo(320, 240)), key="none"),
        "no image": request(form(os.urandom(500_000))),
    }

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(hostile(number, port, seen, bodies)) for number in range(CONNECTIONS)]
        told.send("ready")  # type: ignore[attr-defined]
        while not told.poll():  # type: ignore[attr-defined]
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    told.send(seen)  # type: ignore[attr-defined]


def visit(port: int, body: bytes, count: int) -> tuple[list[float], Counter[int]]:
    """Milliseconds of the small photos that were answered, one after another, and the codes of all."""
    took, codes = [], Counter[int]()
    for _ in range(count):
        started = time.perf_counter()
        code = 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(
                "POST", "/identify", body, {"x-api-key": KEY, "content-type": "multipart/form-data; boundary=edge"}
            )
            reply = connection.getresponse()
            reply.read()
            code = reply.status
            connection.close()
        codes[code] += 1
        if code == 200:
            took.append(1e3 * (time.perf_counter() - started))
        time.sleep(0.05)
    return took, codes


def peak_mb(process: int) -> float:
    """The most memory that the service held, its processes together."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    held = 0
    for one in (str(process), *children):
        with contextlib.suppress(OSError):
            held += int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{one}/status").read_text())[0])
    return held / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", type=Path, default=APP)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=60, help="small photos in a round (%(default)s)")
    asked, extra = parser.parse_known_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, asked.app.resolve(), "mobilefacenet", f"{folder}/g", "--port", str(port), *extra]
        service = subprocess.Popen(
            command, env=os.environ | {"EDGEFACE_KEY": KEY}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            body = form(photo(320, 240))
            until = time.monotonic() + 120
            while not visit(port, body, 1)[0] and time.monotonic() < until:
                time.sleep(0.2)
            visit(port, body, 20)
            idle_mb = peak_mb(service.pid)
            rows: dict[str, list[list[float]]] = {"idle": [], "load": []}
            codes, seen = Counter[int](), Counter[str]()
            for _ in range(asked.rounds):
                rows["idle"].append(visit(port, body, asked.photos)[0])
                here, there = get_context("spawn").Pipe()
                process = get_context("spawn").Process(target=attack_with_key, args=(port, there, KEY))
                process.start()
                here.recv()
                time.sleep(2 * PAUSE)
                took, answered = visit(port, body, asked.photos)
                rows["load"].append(took)
                codes += answered
                here.send("end")
                seen += here.recv()
                process.join()
                time.sleep(PAUSE)
            idle, load = (np.concatenate(rows[kind]) for kind in ("idle", "load"))
            print(f"idle: p50 {np.percentile(idle, 50):.0f} ms, p95 {np.percentile(idle, 95):.0f} ms, {idle_mb:.0f} MB")
            if len(load):
                p50, p95 = np.percentile(load, [50, 95])
                print(f"load: p50 {p50:.0f} ms, p95 {p95:.0f} ms, {peak_mb(service.pid):.0f} MB at the most")
                print(f"p95 of load / idle: {p95 / np.percentile(idle, 95):.2f}")
            print(f"small photos under load: {dict(codes)}")
            print("others:", ", ".join(f"{what} {count}" for what, count in sorted(seen.items())))
        finally:
            service.terminate()
            service.wait()


def attack_with_key(port: int, told: object, key: str) -> None:
    """``attack`` in a new process, which would draw a key of its own."""
    global KEY
    KEY = key
    attack(port, told)


if __name__ == "__main__":
    main()
