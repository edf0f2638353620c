"""Model file formats: one module each, which is a ``Format``."""

from edgeface_export.formats import ncnn_file, onnx_file, tflite_file
from edgeface_export.formats.protocols import Format, StaticFormat

STATIC_FORMATS: dict[str, StaticFormat] = {"onnx": onnx_file, "tflite": tflite_file}
"""The formats of torch modules and of static int8."""
FORMATS: dict[str, Format] = STATIC_FORMATS | {"ncnn": ncnn_file}
