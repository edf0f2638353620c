"""What an export can be asked for: the table of recipes, and the options with the one place of each default."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgeface_runtime.errors import UsageError

SEARCH = "auto"
"""The calibrator that tries all of ``quantize.ranges.METHODS``."""
CONVERTERS = ("litert", "keras")


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


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How model files are made of a source model, and what is asked of them.

    Raises:
        UsageError: a value that is not among the choices, is out of range, or goes with no other one given.
    """

    formats: Sequence[str] | None = None
    """Of ``onnx`` and ``tflite``, or ``ncnn`` alone. None: ONNX and TFLite of a trained model, else the format of the
    third-party file."""
    precisions: Sequence[str] | None = None
    """Of those in ``RECIPES``. None: fp32 and int8; int8 alone with ``qat``; fp32 alone of a
    third-party TFLite file; fp16 as ncnn."""
    calibrator: str = "mse"
    """How int8 activation ranges are taken: a key of ``quantize.ranges.METHODS``, or ``auto``: all of them, measured on
    the calibration-selection set."""
    calibration_faces: int = 100
    """Training faces that int8 activation ranges are taken from; at least 1."""
    min_cosine: float = 0.995
    """Mean cosine to the source model, −1 to 1, below which sensitive layers of a static int8 file are excluded from
    quantization, as far as that helps; it refuses nothing."""
    max_drop: float = 0.15
    """Verification accuracy that a file may lose against the source model, in percentage points."""
    converter: str = "litert"
    """What writes TFLite: ``litert`` (litert-torch), or ``keras`` (TensorFlow, by way of Keras layers)."""
    qat: bool = False
    """Quantization-aware fine-tuning of a trained model before the export; int8 precisions only."""
    qat_steps: int = 300
    """Steps of ``qat``, of 16 faces each."""
    seed: int = 0
    """Of the draw of calibration faces, of evaluation pairs, of people where there are too many, and of ``qat``."""

    def __post_init__(self) -> None:
        from edgeface_export.quantize.ranges import METHODS

        for name in ("formats", "precisions"):
            given = getattr(self, name)
            if given is None:
                continue
            object.__setattr__(self, name, tuple(given))
            field = name.removesuffix("s")
            known = sorted({str(getattr(recipe, field)) for recipe in RECIPES})
            if not given or not set(given) <= set(known):
                raise UsageError(f"{field} {', '.join(given)}: there are {', '.join(known)}")
        if self.formats is not None and "ncnn" in self.formats and len(self.formats) > 1:
            raise UsageError("format ncnn goes alone: it is made of an exported fp32 .onnx file")
        if self.calibrator not in (SEARCH, *METHODS):
            raise UsageError(f"calibrator {self.calibrator}: there are {', '.join((SEARCH, *METHODS))}")
        if self.converter not in CONVERTERS:
            raise UsageError(f"converter {self.converter}: there are {', '.join(CONVERTERS)}")
        if self.calibration_faces < 1:
            raise UsageError(f"int8 ranges are taken from {self.calibration_faces} faces; at least 1 is needed")
        if math.isnan(self.max_drop):
            raise UsageError("the largest drop must be a number of percentage points")
        if not -1 <= self.min_cosine <= 1:
            raise UsageError(f"the least cosine is {self.min_cosine}; a cosine lies between -1 and 1")
        others = [precision for precision in self.precisions or () if not precision.startswith("int8")]
        if self.qat and others:
            raise UsageError(f"--qat moves the weights for int8; export {', '.join(others)} without it")

    def as_json(self) -> dict[str, object]:
        """The object under ``options`` in ``export --json``."""
        return dataclasses.asdict(self)
