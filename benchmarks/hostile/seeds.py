"""One sound document of each format, made by edgeface itself, for ``python -m benchmarks.hostile`` to break."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

_PEOPLE, _PHOTOS = 4, 5
_CONTRACT = """name = "net"
backbone = "net"
precision = "fp32"
[input]
size = 112
layout = "NHWC"
dtype = "uint8"
colour = "RGB"
mean = [127.5, 127.5, 127.5]
std = [127.5, 127.5, 127.5]
[embedding]
length = 128
normalised = false
"""
_SETTINGS = """[model]
backbone = "mobilefacenet-tiny"
embedding_dim = 64
[head]
loss = "arcface"
logit_scale = 16.0
margin = 0.3
[data]
batch_size = 8
[optim]
lr = 0.01
[schedule]
epochs = 1
[augment]
flip_prob = 0.5
blur_prob = 0.1
"""


def make(root: Path) -> None:
    """Fills a folder, in about a minute."""
    from PIL import Image

    from edgeface.data.att import att_folder
    from edgeface_runtime import read_contract
    from edgeface_runtime.model import find_model

    def run(*arguments: str | Path, fails: bool = False) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edgeface", *map(str, arguments)], capture_output=True, text=True, cwd=root
        )
        if done.returncode and not fails:
            raise RuntimeError(f"edgeface {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    att = att_folder()
    for person in range(1, _PEOPLE + 1):
        for number in range(1, _PHOTOS + 1):
            photo = root / "photos" / f"s{person}" / f"{number}.png"
            photo.parent.mkdir(parents=True, exist_ok=True)
            Image.open(att / f"s{person}" / f"{number}.pgm").resize((184, 224)).save(photo)
    one = root / "photo" / "one.jpg"
    one.parent.mkdir()
    Image.open(root / "photos/s1/1.png").convert("RGB").save(one, quality=90)
    run("data", "prepare", "photos", "prepared", "--workers", "1")
    run("data", "split", "prepared", "--test", "0.3")
    run("data", "inspect", "prepared", "-o", root / "page.html")
    (root / "labels").mkdir()
    (root / "labels/labels.csv").write_text(
        "path,identity\n" + "".join(f"s{n}/1.png,Person {n}\n" for n in range(1, 5))
    )
    (root / "labels/identity.txt").write_text("".join(f"s{n}/1.png {n}\n" for n in range(1, 5)))
    small = root / "few"
    for n in range(1, 5):
        (small / f"s{n}").mkdir(parents=True)
        (small / f"s{n}/1.png").hardlink_to(root / f"photos/s{n}/1.png")
    (root / "groups").mkdir()
    (root / "groups/groups.csv").write_text("identity,group\n" + "".join(f"s{n},{'ab'[n % 2]}\n" for n in range(1, 5)))
    lfw = root / "lfw"
    for n in range(1, 5):
        for k in range(1, 4):
            photo = lfw / f"Person_{n}" / f"Person_{n}_{k:04d}.jpg"
            photo.parent.mkdir(parents=True, exist_ok=True)
            Image.open(root / f"photos/s{n}/{k}.png").convert("RGB").save(photo)
    run("data", "prepare", lfw, "lfw-prepared", "--workers", "1")
    (root / "pairs").mkdir()
    same = [f"Person_{n}\t{a}\t{b}" for n in range(1, 5) for a, b in ((1, 2), (1, 3))]
    other = [f"Person_{n}\t{k}\tPerson_{n % 4 + 1}\t{k}" for n in range(1, 5) for k in (1, 2)]
    (root / "pairs/pairs.txt").write_text("\n".join(["8", *same, *other]) + "\n")
    (root / "settings").mkdir()
    (root / "settings/settings.toml").write_text(_SETTINGS)
    (root / "contracts").mkdir()
    (root / "contracts/net.toml").write_text(_CONTRACT)
    document = json.loads(read_contract(find_model("mobilefacenet-tiny")).to_json())
    (root / "contracts/net.json").write_text(
        json.dumps({k: document[k] for k in ("name", "backbone", "precision", "input", "embedding")})
    )
    (root / "names").mkdir()
    (root / "names/names.toml").write_text('"^features\\\\." = "layers."\n"^bn\\\\." = "layers.1."\n')
    models = root / "models"
    models.mkdir()
    for name in ("mobilefacenet-tiny.int8.onnx", "mobilefacenet-tiny.int8.tflite"):
        shipped = find_model("mobilefacenet-tiny").parent / name
        (models / name).write_bytes(shipped.read_bytes())
    bare = models / "bare.onnx"
    bare.write_bytes((models / "mobilefacenet-tiny.int8.onnx").read_bytes().replace(b"edgeface", b"edgefacX"))
    contract = json.dumps(document | {"file_sha256": "0" * 64}, sort_keys=True, separators=(",", ":")).encode()
    graph = b"7767517\n1 1\nInput in0 0 1 in0\n"
    _tar(models / "net.ncnn", {"model.param": graph, "model.bin": b"\0" * 64, "edgeface.json": contract})
    run("train", "prepared", "-o", "run", "--config", "settings/settings.toml")
    run(
        "enroll",
        "photos",
        "-g",
        "people.gallery",
        "-m",
        models / "mobilefacenet-tiny.int8.tflite",
        "--force",
        fails=True,
    )
    (root / "gallery").mkdir()
    (root / "people.gallery").rename(root / "gallery/people.gallery")
    run("gallery", "export", "gallery/people.gallery", "gallery/people.json")
    run("gallery", "export", "gallery/people.gallery", "gallery/people.csv")
    photos = json.loads((root / "gallery/people.json").read_text())["photos"]
    np.savez(
        root / "gallery/people.npz",
        names=np.array([photo["name"] for photo in photos]),
        embeddings=np.array([photo["embedding"] for photo in photos], np.float32),
    )
    (root / "bench").mkdir()
    tiny = models / "mobilefacenet-tiny.int8.tflite"
    run("bench", tiny, models / "mobilefacenet-tiny.int8.onnx", "--calls", "20", "-o", "bench/bench.json")
    run("bench", tiny, "--calls", "20", "--photo", "-o", "bench/photo.json")
    run("bench", tiny, "--device", "rpi-4b,rpi-5", "-o", "bench/boards.json", fails=True)
    (root / "anchors").mkdir()
    net = dict.fromkeys(("pointwise", "conv", "depthwise", "linear", "parameters", "activations", "layers"), 10.0)
    anchor = {
        "board": "rpi-4b",
        "engine": "litert",
        "version": "2.1",
        "precision": "int8",
        "threads": 4,
        "net": net,
        "ms": 5.0,
    }
    anchor |= {"sha256": "0" * 64, "date": "2026-01-01"}
    (root / "anchors/anchors.jsonl").write_text(f"{json.dumps(anchor)}\n{json.dumps(anchor | {'threads': 1})}\n")
    run("group", "few", "photo", "-o", "grouped", "-m", tiny, "--folders", "none", fails=True)


def _tar(path: Path, members: dict[str, bytes]) -> None:
    import io
    import tarfile

    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
