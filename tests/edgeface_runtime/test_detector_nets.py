"""The shipped detector nets compute what their sources compute."""

import importlib.util
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime.detection.find import NETS
from edgeface_runtime.engines import Engine, open_engine
from edgeface_runtime.errors import ModelError


@pytest.fixture(scope="module")
def theirs() -> Any:
    """facenet-pytorch's module with the three nets."""
    pytest.importorskip("torch")
    if importlib.util.find_spec("facenet_pytorch") is None:
        pytest.skip("needs facenet-pytorch: pip install --no-deps facenet-pytorch==2.6.0 torchvision")
    from edgeface_export.torchvision_repair import repair

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old package about itself
        repair()
        from facenet_pytorch.models import mtcnn

    return mtcnn


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("shape", [(12, 12), (13, 40), (97, 64), (201, 203)])
def test_pnet_equals_the_original_at_every_size(theirs: Any, suffix: str, shape: tuple[int, int]) -> None:
    values = sample(1, *shape)
    (answer,) = open_engine(NETS / f"pnet.{suffix}").run(values)
    offsets, odds = original(theirs.PNet(), values)
    assert np.allclose(1 / (1 + np.exp(-answer[..., 0])), odds[:, 1], atol=2e-5)
    assert np.allclose(answer[..., 1:].transpose(0, 3, 1, 2), offsets, atol=2e-5)


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("count", [1, 5, 130])
def test_rnet_and_onet_equal_the_originals_at_every_batch(theirs: Any, suffix: str, count: int) -> None:
    values = sample(count, 24, 24)
    (answer,) = open_engine(NETS / f"rnet.{suffix}").run(values)
    offsets, odds = original(theirs.RNet(), values)
    assert np.allclose(np.column_stack([answer[:, 1:]]), offsets, atol=2e-5)
    assert np.allclose(1 / (1 + np.exp(-answer[:, 0])), odds[:, 1], atol=2e-5)
    values = sample(count, 48, 48)
    (answer,) = open_engine(NETS / f"onet.{suffix}").run(values)
    offsets, points, odds = original(theirs.ONet(), values)
    # O-Net keeps 16-bit weights.
    assert np.allclose(answer[:, 1:5], offsets, atol=3e-3)
    assert np.allclose(answer[:, 5:], points, atol=3e-3)
    assert np.allclose(1 / (1 + np.exp(-answer[:, 0])), odds[:, 1], atol=3e-3)


@pytest.mark.parametrize("net", ["blazeface_full_range", "blazeface_short_range"])
def test_blazeface_in_onnx_equals_its_tflite_file(net: str) -> None:
    one, other = open_engine(NETS / f"{net}.tflite"), open_engine(NETS / f"{net}.onnx")
    assert one.input_shape == other.input_shape
    for seed in range(3):
        values = np.random.default_rng(seed).uniform(-1, 1, one.input_shape).astype(np.float32)
        a, b = by_width(one, values), by_width(other, values)
        assert [part.shape[-1] for part in a] == [1, 16]
        for first, second in zip(a, b, strict=True):
            assert np.abs(first - second).max() <= 1e-4 * np.abs(first).max()


def test_an_onnx_net_reads_its_large_weights_from_the_tflite_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = sample(1, 48, 48)
    net = Path(shutil.copy(NETS / "onet.onnx", tmp_path))
    with pytest.raises(ModelError, match=r"its weights are in another file, which is absent: .*onet\.tflite"):
        open_engine(net)
    shutil.copy(NETS / "onet.tflite", tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in (net, Path(net.name)):
        assert np.array_equal(open_engine(path).run(values)[0], open_engine(NETS / "onet.onnx").run(values)[0])


def by_width(engine: Engine, values: np.ndarray) -> list[np.ndarray]:
    return sorted(engine.run(values), key=lambda part: part.shape[-1])


def sample(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width + count).uniform(-1, 1, (count, 3, height, width)).astype(np.float32)


def original(net: Any, values: np.ndarray) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        return [part.numpy() for part in net.eval()(torch.from_numpy(values))]


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
@pytest.mark.parametrize("shape", [(96, 128), (160, 64), (352, 480)])
def test_yunet_equals_opencvs_file_at_every_size(shared: Path, suffix: str, shape: tuple[int, int]) -> None:
    path = shared / "peers/face_detection_yunet_2026may.onnx"
    if not path.is_file():
        pytest.skip("needs a YuNet file in the shared folder's peers")
    shapes = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(shapes).resize(shape[::-1], Image.Resampling.BICUBIC))[None]
    padded = np.pad(pixels, ((0, 0), (1, 0), (1, 0), (0, 0)))
    maps = open_engine(NETS / f"yunet.{suffix}").run((padded ^ np.uint8(128)).view(np.int8))
    planar = np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2), np.float32)
    theirs = open_engine(path).run(planar)
    # In TFLite it is int8.
    near, rate = (1e-5, 1e-6) if suffix == "onnx" else (0.25, 0.1)
    for level, answer in enumerate(maps):
        assert answer.shape[1:3] == (shape[0] // 8 >> level, shape[1] // 8 >> level)
        flat = answer.reshape(-1, 16)
        assert np.abs(1 / (1 + np.exp(-flat[:, 0])) - theirs[level][0, :, 0]).max() < rate
        assert np.abs(1 / (1 + np.exp(-flat[:, 1])) - theirs[3 + level][0, :, 0]).max() < rate
        assert np.abs(flat[:, 2:6] - theirs[6 + level][0]).mean() < near
        assert np.abs(flat[:, 6:] - theirs[9 + level][0]).mean() < near


_MEMORY = """
import re, sys
from pathlib import Path
from edgeface_runtime.engines import open_engine

def kilobytes():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

open_engine(sys.argv[1])  # with the engine itself
before = kilobytes()
engine = open_engine(sys.argv[2])
print(kilobytes() - before)
"""


@pytest.mark.parametrize("net", ["onet", "rnet", "pnet", "yunet"])
def test_a_net_keeps_memory_for_one_photo(net: str) -> None:
    """XNNPACK keeps memory for as many photos as a file names, however many come."""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads Linux's /proc")
    pytest.importorskip("ai_edge_litert")
    files = [NETS / f"{name}.tflite" for name in ("blazeface_short_range", net)]
    done = subprocess.run([sys.executable, "-c", _MEMORY, *map(str, files)], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 12_000
