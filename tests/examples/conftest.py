"""Files that the readers in other languages are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeface_runtime.metadata import read_text, write_tar
from edgeface_runtime.model import shipped


@pytest.fixture(scope="session")
def behind_tflite(tiny_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFLite file whose contract lies behind the FlatBuffer, as large buffers may."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(tiny_tflite.read_bytes())
    buffer = model.buffers[model.metadata[0].buffer]
    text, buffer.data = bytes(buffer.data), None
    buffer.offset, buffer.size = 2, len(text)  # in place until the length is known
    for _ in range(2):
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        packed = bytes(builder.Output())
        buffer.offset = len(packed)
    path = tmp_path_factory.mktemp("behind") / "behind.tflite"
    path.write_bytes(packed + text)
    return path


@pytest.fixture(scope="session")
def ncnn_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar archive with a contract, as an ncnn file is."""
    path = tmp_path_factory.mktemp("ncnn") / "net.ncnn"
    contract = read_text(shipped()[0].file).encode()
    write_tar(path, {"model.param": b"7767517\n", "model.bin": bytes(1000), "edgeface.json": contract})
    return path
