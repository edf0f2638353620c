"""One path from photo to aligned face: what prepare writes is what a device embeds, in LiteRT to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeface.data.prepare import prepare
from edgeface.data.table import read_faces
from edgeface_runtime import FaceRecognizer, load
from edgeface_runtime.align import align
from edgeface_runtime.detection.find import find_faces, most_central
from edgeface_runtime.images import open_rgb


@pytest.fixture(scope="module")
def prepared(att_people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "faces"
    prepare(att_people, folder)
    return folder


@pytest.mark.parametrize("file", ["mobilefacenet.int8.tflite", "mobilefacenet.int8.onnx"])
def test_a_device_sees_the_crops_that_prepare_wrote(file: str, att_people: Path, prepared: Path, trained):
    recognizer, model = FaceRecognizer(trained.models / file), load(trained.models / file)
    for row in read_faces(prepared)[::8]:
        photo = open_rgb(att_people / row["source"])
        faces, _ = find_faces(photo, recognizer.detector)
        face = most_central(faces, *photo.shape[:2])
        crop = np.asarray(Image.open(prepared / row["path"]))
        if file.endswith("onnx"):  # YuNet is float there
            assert np.abs(align(photo, face.landmarks) - crop.astype(int)).mean() < 8
            assert (recognizer.embed(photo, [face]) @ model.embed(crop[None]).T).item() > 0.97
            continue
        np.testing.assert_array_equal(align(photo, face.landmarks), crop)
        np.testing.assert_array_equal(recognizer.embed(photo, [face]), model.embed(crop[None]))
