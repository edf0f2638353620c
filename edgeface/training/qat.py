"""Quantization-aware fine-tuning: moves a trained net's weights to where int8 costs it less.

B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018, section 3, with the net itself as the teacher in place of labels.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from edgeface.progress import SILENT, Reporter
from edgeface.training.augment import augment, draw, normalize
from edgeface.training.checkpoints import Checkpoint, save_tensors
from edgeface.training.config import AugmentConfig
from edgeface.training.devices import best_device, onto
from edgeface_runtime import InputSpec, UsageError

FILE = "qat.safetensors"
BATCH = 16
LR = 1e-3
"""Share of a tensor's mean size that Adam moves its numbers by in one step, at most."""
MEMORY = 0.95
"""Decay per step of an activation's range."""
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What fine-tuning made."""

    net: nn.Module
    """As the given one, with other weights; batch norm's statistics are the same."""
    before: float
    """Mean cosine of the quantized net to the given one over the first tenth of the steps."""
    after: float
    """The same over the last tenth."""


def finetune_checkpoint(
    checkpoint: Checkpoint, faces: NDArray[np.uint8], *, steps: int, reporter: Reporter = SILENT, seed: int = 0
) -> Checkpoint:
    """Fine-tunes a checkpoint's net and writes ``qat.safetensors``, a checkpoint like any other, beside it.

    Its contract names the given checkpoint as the parent, and the cosines to it in ``accuracy["finetuning"]``.

    Args:
        checkpoint: what to start from and to learn from.
        faces, steps, reporter, seed: as in ``finetune``.

    Raises:
        UsageError: as in ``finetune``, or the file cannot be written.
    """
    made = finetune(checkpoint.net, checkpoint.contract.input, faces, steps=steps, reporter=reporter, seed=seed)
    figures = {"cosine_before": round(made.before, 5), "cosine_after": round(made.after, 5)}
    reporter.say(f"cosine in int8, step by step: {made.before:.5f} at first, {made.after:.5f} at last")
    found = {"steps": steps, "seed": seed, "photos": len(faces), **figures}
    contract = replace(checkpoint.contract, parent_sha256=checkpoint.sha256, accuracy={"finetuning": found})
    path = checkpoint.path.with_name(FILE)
    save_tensors(path, made.net.state_dict(), {"contract": json.loads(contract.to_json())})
    return Checkpoint(path, made.net, contract)


def finetune(
    net: nn.Module,
    spec: InputSpec,
    faces: NDArray[np.uint8],
    *,
    steps: int,
    reporter: Reporter = SILENT,
    seed: int = 0,
    device: torch.device | None = None,
) -> FineTuned:
    """Trains a copy of the net, rounded to int8 as its files are, towards the net's own embeddings: 1 − cosine.

    Args:
        net: (N, 3, S, S) normalised float → (N, D), in evaluation mode; left as it is.
        spec: the contract's input.
        faces: (N, S, S, 3) uint8 RGB.
        steps: of 16 faces each, augmented as in training.
        reporter: told how far it is.
        seed: of the choice of faces and their augmentation.
        device: to compute on; by default a GPU where there is one. What comes out lies on the CPU.

    Raises:
        UsageError: fewer than 10 steps, no faces, or a loss that is not finite.
    """
    if steps < 10 or not len(faces):
        raise UsageError(
            f"{steps} steps of fine-tuning on {len(faces)} faces; at least 10 steps and one face are needed"
        )
    device = device or best_device()
    teacher, student = (
        copy.deepcopy(net).eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for _ in range(2)
    )
    rounded = fake_quantized(student).to(device)
    # The net is good already: one rate for tensors of all sizes would undo the small ones before int8 is mended.
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    sizes = [{"params": [parameter], "lr": LR * float(parameter.detach().abs().mean())} for parameter in learned]
    optimizer = torch.optim.Adam(sizes, betas=(0.9, 0.999))
    # From almost nothing and back to it: Adam's first steps are as large as its rate, whatever the gradient.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: math.sin(math.pi * (step + 1) / (steps + 1)))
    slopes = [module.weight for module in student.modules() if isinstance(module, nn.PReLU)]
    config, seen = AugmentConfig(), []
    for step in reporter.track(range(steps), "fine-tuning for int8"):
        rng = np.random.default_rng((seed, step))
        rows = np.sort(rng.choice(len(faces), BATCH, replace=len(faces) < BATCH))
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 31)))
        drawn = draw(BATCH, generator).part(slice(None), device)
        pixels = onto(torch.from_numpy(faces[rows]), device)
        x = augment(normalize(pixels, spec.mean, spec.std), drawn, config)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            target = teacher(x)
        cosine = F.cosine_similarity(rounded(x), target).mean()
        optimizer.zero_grad()
        (1 - cosine).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for slope in slopes:  # the exact rewrites of PReLU that export uses hold for slopes up to 1
                slope.clamp_(max=1.0)
        seen.append(cosine.detach())
    cosines = torch.stack(seen).tolist()
    if not np.isfinite(cosines).all():
        raise UsageError("fine-tuning for int8 ran into numbers that are not finite; export without it")
    for module in student.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    tenth = steps // 10
    return FineTuned(student.cpu(), float(np.mean(cosines[:tenth])), float(np.mean(cosines[-tenth:])))


class _Round(torch.autograd.Function):
    """Rounds to a grid; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: object, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        # A quarter of the time of torch.fake_quantize_per_tensor_affine, which also keeps a mask.
        return x.mul(1 / scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0], None, None, None


def _round(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    y: Tensor = _Round.apply(x, scale, low, high)  # type: ignore[no-untyped-call]
    return y


class RoundedWeight(nn.Module):
    """Weights as int8 files hold them: symmetric, one scale for each output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        """(out, …) → the same shape."""
        with torch.no_grad():
            largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
            last = weight.new_full((), 127.0)
        return _round(weight, (largest / last).clamp(min=_TINY), -last, last)


class RoundedActivation(nn.Module):
    """An activation as int8 files hold it: 256 steps over the range that it had in the last batches."""

    range: Tensor
    """(2,) least and largest, moving averages; 0 lies between them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("range", torch.full((2,), torch.nan))

    def forward(self, x: Tensor) -> Tensor:
        """A tensor → one of the same shape; sides and other numbers, which no file rounds, as they are."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        with torch.no_grad():
            if self.training:
                seen = torch.stack([x.amin().clamp(max=0), x.amax().clamp(min=0)])
                self.range = torch.where(self.range.isnan(), seen, torch.lerp(seen, self.range, MEMORY))
            low, high = self.range
            scale = ((high - low) / 255).clamp(min=_TINY)
            lowest = (low / scale).round()
        return _round(x, scale, lowest, lowest + 255)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Every form that files write PReLU in rounds its input and its result; what lies between differs.
        return isinstance(m, nn.PReLU) or super().is_leaf_module(m, module_qualified_name)


_FUSED = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6)
"""Engines compute these with the layer before; nothing is rounded in between."""
_MOVING = (nn.Flatten, nn.MaxPool2d, nn.Identity, nn.Dropout)
"""These give what they were given."""


def fake_quantized(net: nn.Module) -> fx.GraphModule:
    """The net's graph with rounding where int8 files round: weights, the input, and what each layer stores.

    Batch norm is not folded: with frozen statistics it scales whole output channels, and rounding with
    a scale for each channel commutes with that.

    Args:
        net: in evaluation mode. The graph shares its modules, so training the graph trains the net.
    """
    graph = _Tracer().trace(net)
    modules = dict(net.named_modules())
    traced = fx.GraphModule(net, graph)

    def is_a(node: fx.Node, kinds: tuple[type[nn.Module], ...]) -> bool:
        return node.op == "call_module" and isinstance(modules[str(node.target)], kinds)

    for index, node in enumerate(list(graph.nodes)):
        is_fused = len(node.users) == 1 and is_a(next(iter(node.users)), _FUSED)
        if node.op in ("output", "get_attr") or is_fused or is_a(node, _MOVING):
            continue
        traced.add_submodule(f"rounded_{index}", RoundedActivation())
        with graph.inserting_after(node):
            rounded = graph.call_module(f"rounded_{index}", (node,))
        node.replace_all_uses_with(rounded)
        rounded.args = (node,)
    for module in modules.values():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            parametrize.register_parametrization(module, "weight", RoundedWeight())
    traced.recompile()
    return traced
