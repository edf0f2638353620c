"""The benchmark of a GPU runs on a processor too: rows, a table, one after another, within its minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not (Path(__file__).parents[2] / "benchmarks" / "gpu.py").exists():
    pytest.skip("needs the checkout's benchmarks", allow_module_level=True)

from benchmarks import gpu


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """The exit code, or the line that it ends with."""
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, arguments)])
    try:
        gpu.main()
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_rows_are_measured_kept_and_not_measured_again(tmp_path: Path, monkeypatch, capsys):
    file = tmp_path / "rows.json"
    quick = ["-o", file, "--device", "cpu", "--quick", "--nets", "mobilefacenet:width=0.25"]
    assert run(monkeypatch, *quick, "--modes", "fp32", "bf16", "--minutes", "0") == 0
    assert "rows left: 2" in capsys.readouterr().out
    assert not file.exists()
    assert run(monkeypatch, *quick, "--modes", "fp32") == 0
    (first,) = json.loads(file.read_text())["rows"]
    assert run(monkeypatch, *quick, "--modes", "fp32", "bf16", "--peak", "1", "2") == (
        f"{file}: made on another device or with other settings; name another file with -o"
    )
    near = gpu.NEAR["bf16"]
    monkeypatch.setitem(gpu.NEAR, "bf16", 0.0)
    assert run(monkeypatch, *quick, "--modes", "fp32", "bf16") == 1
    document = json.loads(file.read_text())
    kept, half = document["rows"]
    assert kept == first
    assert (document["environment"]["device"], document["environment"]["memory_format"]) == ("cpu", "channels_last")
    assert first["losses"] == first["cpu_losses"]  # the very same computation
    assert half["losses"] != half["cpu_losses"]
    assert 0 < half["loss_off"] < near
    assert (first["near"], half["near"]) == (True, False)
    assert first["images_per_s"] > 0
    assert first["tflops"] == pytest.approx(first["images_per_s"] * 6 * macs("mobilefacenet:width=0.25") / 1e12)
    table = capsys.readouterr().out
    assert file.with_suffix(".md").read_text() in table
    assert table.count("%, differs |") == 1
    assert [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| mobile")] == [
        "fp32",
        "fp32",
        "bf16",
    ]


def macs(net: str) -> int:
    """Multiply-accumulates of a face, by the shapes that the layers give."""
    from torch import nn

    from edgeface.backbones import build_backbone

    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    built = build_backbone(net, embedding=128, size=112).eval()
    for module in built.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    built(torch.zeros(1, 3, 112, 112))
    return total


@pytest.mark.parametrize(("name", "mode", "expected"), [
    ("NVIDIA H200", "fp32", 495), ("NVIDIA H100 PCIe", "bf16", 756), ("NVIDIA H100 80GB HBM3", "compile-bf16", 989),
    ("NVIDIA A100-SXM4-40GB", "compile", 156), ("NVIDIA A10", "bf16", 125), ("NVIDIA A10G", "bf16", None),
    ("NVIDIA GeForce RTX 4090", "bf16", 165), ("a GPU of next year", "bf16", None),
])  # fmt: skip
def test_the_peak_is_that_of_the_device_and_the_format(name: str, mode: str, expected: float | None):
    assert gpu.peak_of(name, mode, None) == expected
    assert gpu.peak_of(name, mode, [1.5, 3.0]) == (3.0 if mode.endswith("bf16") else 1.5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "-o", str(tmp_path / "gpu.json")],
        capture_output=True, text=True, cwd=Path(gpu.__file__).parents[1], timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("no CUDA device here: nothing was measured; --device cpu --quick")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
