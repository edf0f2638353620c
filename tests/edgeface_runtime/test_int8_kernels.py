"""onnxruntime's int8 kernels: right sums whatever the processor, and the slower ones only where they are needed."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator

from edgeface_runtime import engines
from edgeface_runtime.engines import int8_overflows, onnx_options, open_engine
from scripts.overflow_probe import FILE, build

KEY = "session.x64quantprecision"


def test_the_probe_is_what_its_script_writes():
    assert FILE.read_bytes() == build().SerializeToString()
    assert FILE.stat().st_size < 1000


def test_the_probe_answers_what_onnx_defines():
    feed = {"map": np.full((1, 16, 4, 4), 255, np.uint8), "rows": np.full((4, 16), 255, np.uint8)}
    convolved, multiplied = ReferenceEvaluator(build()).run(None, feed)
    assert (convolved == 200).all()
    assert (multiplied == 16 * 255 * 127).all()


@pytest.mark.parametrize("exact", [True, False], ids=["exact kernels", "as asked"])
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_right_on_this_processor(seed: int, exact: bool, monkeypatch: pytest.MonkeyPatch):
    if exact:
        monkeypatch.setattr(engines, "int8_overflows", lambda: True)
    rng = np.random.default_rng(seed)
    feed = {"map": rng.integers(200, 256, (1, 16, 4, 4), np.uint8), "rows": rng.integers(200, 256, (4, 16), np.uint8)}
    found = open_engine(FILE).run(*feed.values())
    for ours, theirs in zip(found, ReferenceEvaluator(build()).run(None, feed), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split(":")[1].split())


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="needs the flags of an x86 processor"
)
def test_a_processor_with_vnni_keeps_its_kernels():
    if not flags() & {"avx512_vnni", "avx_vnni"}:
        pytest.skip("needs VNNI")
    assert not int8_overflows()


@pytest.mark.parametrize("overflows", [True, False])
def test_exact_kernels_are_asked_for_only_where_the_fast_ones_overflow(
    overflows: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engines, "int8_overflows", lambda: overflows)
    options = onnx_options(1)
    if overflows:
        assert options.get_session_config_entry(KEY) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(KEY)


def test_other_processors_are_not_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert int8_overflows.__wrapped__() is False
