"""probes.py for LiteRT.js: ``python -m reproduce.engines.browser PACKAGE_FOLDER MODEL IMAGES.npy ANSWER.json``."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from tests.examples import chromium

PAGE = """<!doctype html><script type="importmap">{"imports": {"@litertjs/wasm-utils": "./wasm-utils.js"}}</script>
<script type="module">
import { loadLiteRt, loadAndCompile, Tensor } from "./core.js";
window.answer = async (kind, shape) => {
  await loadLiteRt("./wasm/");
  const model = await loadAndCompile("./model.tflite", { accelerator: "wasm" });
  const body = await (await fetch("./images.bin")).arrayBuffer();
  const data = kind === "uint8" ? new Uint8Array(body) : new Float32Array(body);
  const [count, each] = [shape[0], data.length / shape[0]];
  const outputs = [];
  for (let k = 0; k < count; k++) {
    const taken = new Tensor(data.slice(k * each, (k + 1) * each), [1, ...shape.slice(1)]);
    const [given] = await model.run(taken);
    outputs.push(Array.from((await given.data?.()) ?? given.toTypedArray()));
  }
  return { outputs };
};
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A folder, without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def main() -> None:
    """Serves the file and the package to a headless Chromium, and writes what comes out."""
    packages, model, images, output = sys.argv[1:]
    program = chromium.found()
    if program is None:
        Path(output).write_text(json.dumps({"error": "needs Chromium"}), "utf-8")
        return
    batch = np.load(images)
    core = Path(packages) / "node_modules" / "@litertjs" / "core"
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        shutil.copytree(core / "wasm", site / "wasm")
        shutil.copy(core / "dist" / "index.js", site / "core.js")
        shutil.copy(core.parent / "wasm-utils" / "dist" / "index.js", site / "wasm-utils.js")
        shutil.copy(model, site / "model.tflite")
        (site / "images.bin").write_bytes(batch.tobytes())
        (site / "index.html").write_text(PAGE)
        handler = functools.partial(Quiet, directory=site)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with chromium.browsing(program, Path(folder) / "profile") as page:
                page.open(f"http://127.0.0.1:{server.server_address[1]}/")
                page.wait("window.answer !== undefined")
                call = f"answer({str(batch.dtype)!r}, {list(batch.shape)})"
                caught = ".catch((error) => ({ error: String(error.message ?? error).split('\\n')[0] }))"
                found = page.evaluate(call + caught)
            server.shutdown()
    Path(output).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
    os._exit(0)
