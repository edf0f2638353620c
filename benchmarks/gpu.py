"""A training step on a GPU, by net and number format, in at most 8 minutes.

    python -m benchmarks.gpu [-o gpu.json] [--nets NET …] [--modes fp32 bf16 compile compile-bf16] [--batch 256]
        [--seconds 8] [--minutes 8] [--peak TF32 BF16] [--device cuda] [--quick]

A step is that of ``edgeface train``: faces by row number, normalized, augmented, forward, ArcFace, backward, AdamW. The
faces are drawn by a seed, so nothing but the repository has to be carried to the machine. A row has images a second;
the share of the device's peak that they are (the net's multiply-accumulates × 2 × 3 for forward and backward, over the
peak of the row's number format); the most memory that PyTorch held, faces included; how often a step waits for the
device; and how far the losses of the first steps lie from those of the CPU in float32, by the same seed and batches.
Where that is more than ``NEAR`` the row says ``differs`` and the exit code is 1. ``fp32`` convolutions run in TF32,
PyTorch's default.

Rows go into the JSON file one by one, and a Markdown table beside it: the same command goes on where it stopped, by
itself at the end of ``--minutes`` or by Ctrl-C. ``--device cpu --quick`` runs the same code in seconds.
"""

import argparse
import contextlib
import copy
import json
import re
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from edgeface.backbones import build_backbone
from edgeface.data.dataset import FaceData
from edgeface.heads import build_head
from edgeface.training.augment import augment, draw, normalize
from edgeface.training.config import TrainConfig, load_config
from edgeface.training.devices import described
from edgeface.training.loop import losses
from edgeface.training.training_state import Learner, Pool, clamp_slopes, make_optimizer
from edgeface_export.rewrite import cost_table
from edgeface_runtime.files import write_text

NETS, MODES = ["mobilefacenet", "resnet18", "vgg11"], ["fp32", "bf16", "compile", "compile-bf16"]
CHECKED, CHECKED_BATCH = 5, 16
"""First steps, and faces of each, whose losses are held against the CPU's."""
NEAR = {"fp32": 0.01, "bf16": 0.05}
"""Largest relative difference of a loss: TF32 has 10 bits of mantissa, bf16 7."""
LEAST = 20.0
"""Seconds that must be left for a row to begin."""
PEAKS = {
    "H200": (495, 989), "H100 PCIE": (378, 756), "H100": (495, 989), "A100": (156, 312), "L40S": (183, 362),
    "L4": (60, 121), "A10": (62.5, 125), "RTX 4090": (82.6, 165), "RTX 3090": (35.6, 71),
}  # fmt: skip
"""TFLOPS of dense products in TF32 and bf16, from the makers' data sheets."""


def people(count: int, each: int) -> FaceData:
    """Faces of noise, in part the person's own; all to train on."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(count), each)
    coarse = rng.integers(0, 128, (count, 14, 14, 3))[labels] + rng.integers(0, 128, (len(labels), 14, 14, 3))
    pixels = coarse.astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    names = tuple(map(str, range(count)))
    return FaceData(pixels, labels, names, tuple(map(str, range(len(labels)))), np.full(len(labels), "train"))


class Steps:
    """A net in training: each call is a step, the same on every device."""

    def __init__(self, net: str, mode: str, data: FaceData, config: TrainConfig, device: torch.device) -> None:
        torch.manual_seed(0)
        self.config, self.device, self.pool = config, device, Pool(data, None, None, device)
        backbone = build_backbone(net, embedding=config.model.embedding_dim, size=config.model.input_size)
        self.macs = sum(cost.macs for cost in cost_table(copy.deepcopy(backbone).eval(), 112).values())
        scale, margin = config.head.logit_scale, config.head.margin
        head = build_head("arcface", config.model.embedding_dim, len(data.identities), s=scale, m=margin)
        self.learner = Learner(backbone, head).to(device=device, memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.learner, config.optim)
        self.slopes = [module.weight for module in backbone.modules() if type(module).__name__ == "PReLU"]
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=mode.endswith("bf16"))
        if mode.startswith("compile"):
            backbone.compile()

    def __call__(self, number: int, batch: int) -> torch.Tensor:
        rows = np.random.default_rng((1, number)).choice(len(self.pool.labels), batch)
        drawn = draw(batch, torch.Generator().manual_seed(number)).part(slice(None), self.device)
        faces, labels, _ = self.pool.batch(rows)
        x = augment(normalize(faces, *self.config.model.pixel_statistics), drawn, self.config.augment)
        with self.autocast:
            embeddings, logits, _ = self.learner(x.contiguous(memory_format=torch.channels_last), labels, 0.1)
        loss, _ = losses(embeddings, logits, labels, None, batch, self.config.distill)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), self.config.optim.grad_clip_norm)
        self.optimizer.step()
        clamp_slopes(self.slopes)
        return loss.detach()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def waits(step: Steps, number: int, batch: int) -> int | None:
    """How often a step waits for the GPU; None on a CPU, which is never behind."""
    if step.device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step(number, batch)
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in seen)


def peak_of(name: str, mode: str, given: list[float] | None) -> float | None:
    """TFLOPS of the device in the mode's number format; None where they are not known."""
    words = set(re.findall(r"[A-Z0-9]+", name.upper()))
    known = next((row for key, row in PEAKS.items() if set(key.split()) <= words), None)
    found = given or known
    return None if found is None else found[mode.endswith("bf16")]


def measured(
    net: str, mode: str, options: argparse.Namespace, data: FaceData, on_cpu: list[float]
) -> dict[str, object]:
    """One row."""
    config = load_config(lr=1e-4)
    if options.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(options.device)
    step = Steps(net, mode, data, config, options.device)
    began = time.monotonic()
    found = [step(number, CHECKED_BATCH if not options.quick else 4) for number in range(len(on_cpu))]
    values = torch.stack(found).tolist()
    first = time.monotonic() - began
    off = max(abs(one - other) / abs(other) for one, other in zip(values, on_cpu, strict=True))
    number = 1000
    for number in range(1000, 1003):  # cuDNN's choice of algorithms, allocations, and compiling at this size
        step(number, options.batch)
    waited = waits(step, number + 1, options.batch)
    synchronize(options.device)
    began, steps = time.monotonic(), 0
    while steps < 2 or time.monotonic() - began < options.seconds:
        step(number + 2 + steps, options.batch)
        steps += 1
        if steps % 5 == 0:  # else the clock runs ahead of the device
            synchronize(options.device)
    synchronize(options.device)
    rate = steps * options.batch / (time.monotonic() - began)
    peak = peak_of(options.name, mode, options.peak)
    memory = torch.cuda.max_memory_allocated(options.device) if options.device.type == "cuda" else None
    return {
        "net": net, "mode": mode, "batch": options.batch, "steps": steps, "images_per_s": rate,
        "tflops": (tflops := rate * step.macs * 6 / 1e12),
        "share_of_peak": None if peak is None else tflops / peak, "peak_memory_bytes": memory, "waits_per_step": waited,
        "first_steps_s": first, "losses": values, "cpu_losses": on_cpu, "loss_off": off,
        "near": off <= NEAR["bf16" if mode.endswith("bf16") else "fp32"],
    }  # fmt: skip


def table(document: dict) -> str:
    heads = ["net", "mode", "batch", "images/s", "TFLOPS", "share of peak", "memory, GB", "waits a step", "loss off by"]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]

    def cell(value: float | None, form: str, scale: float = 1.0) -> str:
        return "–" if value is None else format(value / scale, form)

    for row in document["rows"]:
        cells = [row["net"], row["mode"], str(row["batch"]), f"{row['images_per_s']:,.0f}", f"{row['tflops']:.2f}"]
        cells += [cell(row["share_of_peak"], ".1%"), cell(row["peak_memory_bytes"], ".2f", 1e9)]
        cells += [cell(row["waits_per_step"], "d"), f"{row['loss_off']:.2%}" + ("" if row["near"] else ", differs")]
        lines.append(f"| {' | '.join(cells)} |")
    return f"{document['environment']['device']}, PyTorch {document['torch']}\n\n" + "\n".join(lines) + "\n"


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Ends what is done within after so long, wherever it is."""

    def ring(*_: object) -> None:
        raise KeyboardInterrupt  # which no compiler takes for an error of its own

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def opened(path: Path, document: dict) -> dict:
    """What the file holds already, if it is of the same device and settings."""
    if not path.exists():
        return document
    found: dict = json.loads(path.read_text())
    if any(found.get(key) != document[key] for key in document if key != "rows"):
        sys.exit(f"{path}: made on another device or with other settings; name another file with -o")
    return found


def main() -> None:
    end = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured of each row")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--peak", type=float, nargs=2, metavar=("TF32", "BF16"), help="TFLOPS, of a device not known")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--quick", action="store_true", help="few small steps, to see that it runs")
    options = parser.parse_args()
    end += 60 * options.minutes
    if options.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here: nothing was measured; --device cpu --quick runs the same steps on the processor")
    if options.quick:
        options.batch, options.seconds = 4, 0.0
    environment = described(options.device)
    options.name = environment["device"]
    settings = {key: getattr(options, key) for key in ("batch", "seconds", "peak", "quick")}
    document = {"environment": environment, "torch": torch.__version__, "settings": settings, "rows": []}
    document = opened(options.output, json.loads(json.dumps(document)))
    data = people(10, 4) if options.quick else people(200, 20)
    references: dict[str, list[float]] = {row["net"]: row["cpu_losses"] for row in document["rows"]}
    done = {(row["net"], row["mode"]) for row in document["rows"]}
    ordered = [(net, mode) for mode in options.modes for net in options.nets if (net, mode) not in done]
    with contextlib.suppress(KeyboardInterrupt), limited(end - time.monotonic()):
        for net, mode in ordered:
            if end - time.monotonic() < (0 if options.quick else LEAST):
                break
            if net not in references:
                step = Steps(net, "fp32", data, load_config(lr=1e-4), torch.device("cpu"))
                few, faces = (2, 4) if options.quick else (CHECKED, CHECKED_BATCH)
                references[net] = [step(number, faces).item() for number in range(few)]
            row = measured(net, mode, options, data, references[net])
            document["rows"].append(row)
            write_text(options.output, json.dumps(document, indent=2) + "\n")
            write_text(options.output.with_suffix(".md"), table(document))
            print(f"{net} {mode}: {row['images_per_s']:,.0f} images/s", file=sys.stderr, flush=True)
    print(table(document), end="")
    if left := len(ordered) + len(done) - len(document["rows"]):
        print(f"rows left: {left}; the same command goes on with them")
    if not all(row["near"] for row in document["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
