"""Reads the text that a model file carries under the key ``edgeface``, without any engine.

Small walks over the bytes, so that a contract can be read where neither onnx nor flatbuffers is
installed: a protobuf message (ONNX ``ModelProto.metadata_props``, field 14, onnx/onnx.proto), a
FlatBuffer (TFLite ``Model.metadata``, field 6, tensorflow/lite/schema/schema.fbs) and a tar archive
(ncnn's two files and the contract, or the members of an ensemble and theirs, docs/contract.md).
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeface_runtime.checks import read_bytes
from edgeface_runtime.errors import ContractError, ModelError

KEY = "edgeface"
MOST = 2**31
"""Bytes of a model file: more no protobuf message and no FlatBuffer has."""
_METADATA_PROPS = 14
_TAR_BLOCK = 512


MEMBER = "member-"
"""How the names of an ensemble's model files begin."""


def file_format(data: bytes) -> str:
    """``tflite``, ``onnx``, ``ncnn`` or ``ensemble``, told by the first 512 bytes alone: a file's name may lie."""
    if data[257:262] == b"ustar":
        return "ensemble" if data.startswith(MEMBER.encode()) else "ncnn"
    return "tflite" if data[4:8] == b"TFL3" else "onnx"


def graph_formats(path: Path) -> list[str]:
    """The formats of the graphs in a file: its own, or those of an ensemble's members, none where that is damaged.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        kind = file_format(file.read(512))
    if kind != "ensemble":
        return [kind]
    try:
        members = tar_members(read_bytes(path, MOST))
    except ValueError:
        return []
    kinds = {file_format(content) for name, content in members.items() if name.startswith(MEMBER)}
    return sorted(kinds - {"ensemble"})  # one in another is refused where it is opened


_GRAPHLESS = "weights without a graph, which no engine runs"
_TORCH = f"{_GRAPHLESS}: torch.onnx.export writes an .onnx file from the module that they belong to"
_KERAS = "a Keras model: tf.lite.TFLiteConverter.from_keras_model writes a .tflite file from it"
_NOT_BACK = "which nothing here turns into ONNX or TFLite: take the file that it was made of"
_OTHER_KINDS = {
    (".pth", ".pt", ".ckpt", ".pkl"): f"PyTorch {_TORCH}",
    (".safetensors",): f"{_TORCH}; a run of edgeface is named by its folder or its checkpoint",
    (".h5", ".hdf5", ".keras"): _KERAS,
    (".pb",): "a TensorFlow graph: tf.lite.TFLiteConverter, or tf2onnx, writes a .tflite or .onnx file from it",
    (".xml",): f"OpenVINO's form of a model, {_NOT_BACK}",
    (".mnn",): f"a model of MNN, {_NOT_BACK}",
    (".param", ".bin"): f"half of a model of ncnn or OpenVINO, {_NOT_BACK}",
    (".engine", ".plan", ".trt"): f"an engine of TensorRT for one kind of GPU, {_NOT_BACK}",
    (".rknn", ".om", ".hef", ".dla"): f"a model compiled for one kind of chip, {_NOT_BACK}",
    (".mlmodel", ".mlpackage"): f"a model of Core ML, {_NOT_BACK}",
    (".pdmodel", ".pdiparams"): "a model of PaddlePaddle: paddle2onnx writes an .onnx file from it",
    (".params", ".json"): f"a model of MXNet, {_NOT_BACK}; InsightFace has its models as .onnx too",
    (".caffemodel", ".prototxt"): f"a model of Caffe, {_NOT_BACK}",
    (".zip", ".gz", ".tgz", ".7z"): "packed: unpack it and name the .onnx or .tflite file inside",
}
_ARCHIVES = {"ensemble": "ensemble of models", "ncnn": "ncnn model"}
_MAGIC = {b"PK\x03\x04": ".zip", b"\x89HDF": ".h5", b"<?xml": ".xml"}


def other_kind(path: Path, head: bytes) -> str | None:
    """What a file is that is none of the formats, and what to do; None where that is not known.

    Args:
        path: whose ending says it, else
        head: the file's first bytes.
    """
    ending = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), None)
    for suffix in (path.suffix.lower(), ending):
        for endings, words in _OTHER_KINDS.items():
            if suffix in endings:
                return words
    return None


def read_text(path: Path) -> str:
    """The text stored in the model file under the key ``edgeface``.

    Raises:
        ModelError: the file is no ONNX, TFLite or ncnn model, or is cut short.
        ContractError: the file is a model, but carries no such text.
    """
    try:
        data = read_bytes(path, MOST)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty")
    kind = file_format(data)
    read = {"tflite": _tflite_text, "ncnn": _tar_text, "ensemble": _tar_text, "onnx": _onnx_text}[kind]
    try:
        text = read(data)
    except (LookupError, struct.error, ValueError) as error:
        if other := other_kind(path, data):
            raise ModelError(f"{path}: {other}") from error
        # A damaged archive may not look like one any more, but for its name.
        what = _ARCHIVES.get(kind) or _ARCHIVES.get(path.suffix[1:].lower(), "ONNX or TFLite model")
        raise ModelError(f"{path}: not a whole {what} (truncated or another kind of file)") from error
    if text is None:
        raise ContractError(
            f"{path}: carries no edgeface contract; `edgeface export --contract` gives a third-party "
            "file one, and in Python load(path, contract=…) takes it as it is"
        )
    return text


def tar_members(data: bytes) -> dict[str, bytes]:
    """Name → content of each plain file of a tar archive (POSIX.1-1988, pax interchange format, ustar header).

    Raises:
        ValueError: a member runs past the end.
    """
    members, at = {}, 0
    while at + _TAR_BLOCK <= len(data) and data[at]:
        name = data[at : at + 100].split(b"\0", 1)[0].decode()
        size = int(data[at + 124 : at + 136].rstrip(b"\0 ") or b"0", 8)
        if size < 0:
            raise ValueError("a member of less than nothing")
        at += _TAR_BLOCK
        if at + size > len(data):
            raise ValueError("a member runs past the end")
        members[name] = data[at : at + size]
        at += -(-size // _TAR_BLOCK) * _TAR_BLOCK
    return members


def _tar_text(data: bytes) -> str | None:
    member = tar_members(data).get(f"{KEY}.json")
    return None if member is None else member.decode()


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes such an archive, in this order; equal members make equal bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)  # of 1970 and nobody
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, payload) of each length-delimited field of one protobuf message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field runs past the end")
            yield number, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire}")
    if at > len(data):
        raise ValueError("a field runs past the end")


def _onnx_text(data: bytes) -> str | None:
    found = None
    for number, payload in _fields(data):
        if number == _METADATA_PROPS:
            entry = dict(_fields(payload))
            if entry.get(1) == KEY.encode():
                found = entry[2].decode()
    return found


class _Table:
    """One FlatBuffer table: fields looked up by their number in the schema."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        vtable = at - struct.unpack_from("<i", data, at)[0]
        if not 0 <= vtable < len(data):
            raise ValueError("a vtable outside the file")
        size = struct.unpack_from("<H", data, vtable)[0]
        self.offsets = struct.unpack_from(f"<{size // 2 - 2}H", data, vtable + 4)

    def scalar(self, field: int, kind: str) -> int:
        offset = self.offsets[field] if field < len(self.offsets) else 0
        return int(struct.unpack_from(kind, self.data, self.at + offset)[0]) if offset else 0

    def vector(self, field: int) -> tuple[int, int]:
        """(position of the first element, number of elements); (0, 0) when absent."""
        offset = self.offsets[field] if field < len(self.offsets) else 0
        if not offset:
            return 0, 0
        at = self.at + offset
        at += struct.unpack_from("<I", self.data, at)[0]
        return at + 4, int(struct.unpack_from("<I", self.data, at)[0])

    def text(self, field: int) -> str:
        at, length = self.vector(field)
        return self.data[at : at + length].decode()

    def tables(self, field: int) -> list[_Table]:
        start, count = self.vector(field)
        spots = range(start, start + 4 * count, 4)
        return [_Table(self.data, spot + struct.unpack_from("<I", self.data, spot)[0]) for spot in spots]


def _tflite_text(data: bytes) -> str | None:
    model = _Table(data, struct.unpack_from("<I", data, 0)[0])
    buffers = model.tables(4)
    spans = [_span(buffer) for buffer in buffers]
    if any(at + length > len(data) for at, length in spans):
        raise ValueError("a buffer runs past the end")
    found = None
    for entry in model.tables(6):
        if entry.text(0) == KEY:
            at, length = spans[entry.scalar(1, "<I")]
            found = data[at : at + length].decode()
    return found


def _span(buffer: _Table) -> tuple[int, int]:
    """(position, length) of a TFLite buffer; large files have theirs behind the FlatBuffer, from byte 2 on."""
    behind = buffer.scalar(1, "<Q")
    return (behind, buffer.scalar(2, "<Q")) if behind > 1 else buffer.vector(0)
