"""The table of recipes: how each of the files of one model is made."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How one file is made."""

    format: str
    precision: str
    name: str
    """Decodes: ``static_wi8_au8`` is static, int8 weights, uint8 activations; ``wf16`` are float16 weights."""
    prelu: str
    """The PReLU form that this engine runs fastest at this precision; empty where the graph is taken as it is."""
    min_golden: float
    """The least cosine that another processor's arithmetic may give on the golden probes."""
    min_cosine: float = 0.0
    """The least cosine to the source model that 99 % of the evaluation faces must reach."""
    min_int8: float = 0.0
    """The least share of int8 among the operators that compute."""

    @property
    def suffix(self) -> str:
        """``fp32.onnx`` and the like."""
        return f"{self.precision}.{self.format}"

    @property
    def is_calibrated(self) -> bool:
        """True when activation ranges are taken from faces."""
        return self.name.startswith("static")

    @property
    def bytes_each(self) -> tuple[int, int]:
        """(bytes of one weight, bytes of one activation), read out of the name."""
        found = re.fullmatch(r"\w+_w[fi](\d+)_a[fiu](\d+)", self.name)
        return (int(found[1]) // 8, int(found[2]) // 8) if found else (4, 4)


RECIPES = (
    Recipe("onnx", "fp32", "float", "affine", 0.9999, min_cosine=0.9999),
    Recipe("onnx", "fp16", "float_wf16_af16", "affine", 0.999, min_cosine=0.999),
    Recipe("onnx", "int8", "static_wi8_au8", "depthwise", 0.99, min_int8=0.9),
    Recipe("onnx", "int8-dynamic", "dynamic_wi8_af32", "affine", 0.98),
    Recipe("onnx", "int8-weights", "weight_only_wi8_af32", "affine", 0.9999),
    Recipe("tflite", "fp32", "float", "maximum", 0.9999, min_cosine=0.9999),
    Recipe("tflite", "fp16", "weight_only_wf16_af32", "maximum", 0.9999, min_cosine=0.999),
    Recipe("tflite", "int8", "static_wi8_ai8", "maximum", 0.99, min_int8=0.9),
    Recipe("tflite", "int8-dynamic", "dynamic_wi8_af32", "maximum", 0.98),
    Recipe("tflite", "int8-weights", "weight_only_wi8_af32", "maximum", 0.9999),
    Recipe("ncnn", "fp32", "float", "", 0.999, min_cosine=0.9999),
    Recipe("ncnn", "fp16", "float_wf16_af16", "", 0.99, min_cosine=0.999),
)
