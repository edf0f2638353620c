"""The YuNet adapter: decoding by hand on a made-up net, and a real file against OpenCV where both are there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeface_runtime.detection.find import load_detector
from edgeface_runtime.detection.yunet import Yunet
from edgeface_runtime.errors import ImageError, ModelError, UsageError


class MadeUp:
    """An engine that answers with one face in the stride-16 grid, at row 3 and column 5."""

    name, version = "made up", "0"

    def __init__(self, height: int | None = None, width: int | None = None, outputs: int = 12) -> None:
        self.input_shape = (1, 3, height, width)
        self.outputs = outputs
        self.seen = np.empty(0)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        self.seen = inputs[0]
        height, width = self.seen.shape[2:]
        counts = [(height // stride) * (width // stride) for stride in (8, 16, 32)]
        answer = [np.zeros((1, count, k), np.float32) for k in (1, 1, 4, 10) for count in counts]
        cell = 3 * (width // 16) + 5
        answer[1][0, cell], answer[4][0, cell] = 1.2, 0.81
        answer[7][0, cell] = [0.5, 0.25, np.log(4), np.log(2)]
        answer[10][0, cell] = np.arange(10) / 10
        return answer[: self.outputs]


def test_decoding_of_one_cell() -> None:
    net = MadeUp()
    (face,) = Yunet(net=net, longest=None).detect(np.zeros((100, 150, 3), np.uint8))
    assert net.seen.shape == (1, 3, 128, 160)
    assert face.score == pytest.approx(np.sqrt(1 * 0.81))
    # Centre (5.5, 3.25) cells, 4 by 2 cells large, 16 pixels a cell.
    assert np.allclose(face.box, [88 - 32, 52 - 16, 88 + 32, 52 + 16])
    assert np.allclose(face.landmarks, (np.arange(10).reshape(5, 2) / 10 + [5, 3]) * 16)


def test_pixels_arrive_as_bgr_without_scaling() -> None:
    net = MadeUp()
    Yunet(net=net, longest=None).detect(np.full((96, 96, 3), (10, 20, 250), np.uint8))
    assert net.seen[0, :, 40, 40].tolist() == [250, 20, 10]


def test_boxes_return_to_the_size_of_the_photo() -> None:
    (small,) = Yunet(net=MadeUp(), longest=320).detect(np.zeros((160, 320, 3), np.uint8))
    (large,) = Yunet(net=MadeUp(), longest=320).detect(np.zeros((480, 960, 3), np.uint8))
    assert np.allclose(large.box, 3 * small.box)
    assert np.allclose(large.landmarks, 3 * small.landmarks)


def test_a_large_photo_arrives_as_pillow_resizes_it() -> None:
    net = MadeUp()
    image = np.random.default_rng(4).integers(0, 256, (2100, 2900, 3), np.uint8)
    Yunet(net=net, longest=320).detect(image)
    expected = np.asarray(Image.fromarray(image).resize((320, 232), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(net.seen[0, ::-1, :232].transpose(1, 2, 0), expected)


def test_a_file_of_one_size_gets_that_size() -> None:
    net = MadeUp(320, 320)
    (face,) = Yunet(net=net).detect(np.zeros((320, 640, 3), np.uint8))
    assert net.seen.shape == (1, 3, 320, 320)
    assert np.allclose(face.box, [112, 72, 240, 136])


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    path = shared / "peers/face_detection_yunet_2026may.onnx"
    if not path.is_file():
        pytest.skip("needs a YuNet file in the shared folder's peers")
    return path


def test_a_real_file_finds_the_astronaut(weights: Path, shared: Path) -> None:
    image = np.asarray(Image.open(shared / "data/testpics/astronaut.png").convert("RGB"))
    (face,) = load_detector(weights).detect(image)
    (reference,) = load_detector("mtcnn").detect(image)
    assert np.linalg.norm(face.landmarks - reference.landmarks, axis=1).max() < 8


def test_equals_opencvs_detector(weights: Path, shared: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    detector = Yunet(net=load_detector(weights).net, longest=None)  # type: ignore[attr-defined]
    paths = [*sorted((shared / "data/lfw/images").glob("*.jpg"))[::500], shared / "data/testpics/t1.jpg"]
    for path in paths:
        image = np.asarray(Image.open(path).convert("RGB"))
        theirs = cv2.FaceDetectorYN.create(str(weights), "", image.shape[1::-1], 0.6, 0.3, 5000)
        rows = theirs.detect(np.ascontiguousarray(image[..., ::-1]))[1]
        rows = rows[np.argsort(-rows[:, 14])]
        ours = detector.detect(image)
        assert len(ours) == len(rows)
        for face, row in zip(ours, rows, strict=True):
            assert np.allclose(face.box, [*row[:2], *(row[:2] + row[2:4])], atol=0.01)
            assert np.allclose(face.landmarks, row[4:14].reshape(5, 2), atol=0.01)
            assert face.score == pytest.approx(row[14], abs=1e-4)


@pytest.mark.parametrize("image", [np.zeros((50, 50), np.uint8), np.zeros((5, 5, 3), np.int32), []])
def test_what_is_no_photo(image: Any) -> None:
    with pytest.raises(ImageError, match="a photo must be"):
        Yunet(net=MadeUp()).detect(image)


def test_a_file_that_is_no_yunet() -> None:
    with pytest.raises(ModelError, match="12 outputs"):
        Yunet(net=MadeUp(outputs=2)).detect(np.zeros((64, 64, 3), np.uint8))
    grey = MadeUp()
    grey.input_shape = (1, 1, None, None)
    with pytest.raises(ModelError, match="1, 3, H, W"):
        Yunet(net=grey)


def test_threshold_out_of_range() -> None:
    with pytest.raises(UsageError, match="threshold"):
        Yunet(net=MadeUp(), threshold=0)
