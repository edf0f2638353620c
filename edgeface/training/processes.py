"""What several processes need to train as one: batch statistics, sums and decisions over all of them."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

T = TypeVar("T")

PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others. The defaults, 10 minutes on GPUs and 30 on CPUs, end runs in which one
process reads photos or embeds with a teacher meanwhile; a process that died is noticed at once in any case."""
_MALLOC = frozenset({"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"})
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h


def join_processes(mixed_precision: str) -> Accelerator:
    """Meets the other processes of the run, where there are any."""
    AcceleratorState._reset_state()  # else a process that trained once keeps that run's precision, or is refused
    group = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[group])


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it the C library keeps freed memory, and gives it back at the end.

    A training step frees and takes the same large maps again and again. glibc returns them to the kernel, which clears
    their pages anew, up to 400,000 in a step. Elsewhere (musl, macOS, Windows), and where the environment has settings
    of its own for this, nothing is done.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version") or _set_by_hand():
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        # Where glibc's thresholds get to by themselves once a map of 32 MiB was freed.
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)


def _set_by_hand() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc.mmap" in tunables or "glibc.malloc.trim" in tunables or not _MALLOC.isdisjoint(os.environ)


def is_main_process() -> bool:
    """True in the one process that prints and writes; known before the processes have met."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


def agreed(fine: Tensor) -> bool:
    """True where it holds in every process: after a decision of one alone the others would wait for it for ever."""
    if dist.is_initialized():
        fine = fine.float()
        dist.all_reduce(fine, dist.ReduceOp.MIN)
    return bool(fine)


def summed(total: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        dist.all_reduce(total)
    return total


def own_share(items: Sequence[T]) -> Sequence[T]:
    """Every n-th item, where n processes share a work."""
    return items[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else items


def gathered(share: Sequence[T]) -> list[T]:
    """What each process made of its ``own_share``, put together in the order of the items."""
    if not dist.is_initialized():
        return list(share)
    shares: list[Sequence[T]] = [()] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    longest = max(map(len, shares))
    return [each[index] for index in range(longest) for each in shares if index < len(each)]


def wait_for_all() -> None:
    """Until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on a CPU, where torch's SyncBatchNorm does not run.

    Every process must hold the same number of faces.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        # Two sums, not one of squares: in float32 a mean of squares minus a squared mean loses too much.
        world = dist.get_world_size()
        mean: Tensor = _Sum.apply(x.mean((0, 2, 3))) / world  # type: ignore[no-untyped-call]
        centred = x - mean[:, None, None]
        variance: Tensor = _Sum.apply((centred * centred).mean((0, 2, 3))) / world  # type: ignore[no-untyped-call]
        with torch.no_grad():
            count = x.numel() // x.shape[1] * world
            self.running_mean.lerp_(mean, self.momentum or 0.1)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum or 0.1)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


def share_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Batch norms replaced by ones that see the batches of all processes; the same weights, the same names."""
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = _SharedBatchNorm2d
    return module
