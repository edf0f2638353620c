"""The device that a run computes on: which one, what it is called, how tensors get there, what fits into its memory."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from edgeface.progress import Reporter
from edgeface_runtime import UsageError

COMPILING = "compile=true: the first step and the first validation compile the net, which may take minutes"


def best_device() -> torch.device:
    """The GPU of this process where PyTorch sees one, as Accelerate chooses it for a run; else the CPU."""
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def described(device: torch.device) -> dict[str, str]:
    """What ``run.json`` says of it: its name, where it computes in TF32 instead of float32, how maps lie in memory."""
    found = {"device": device.type, "tf32": "no", "memory_format": "channels_last"}
    if device.type == "cuda":
        kinds = {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}
        found |= {"device": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
        found["tf32"] = ", ".join(kind for kind, on in kinds.items() if on) or "no"
    return found


def onto(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, without waiting for what that still computes, so that the next batch is made meanwhile.

    A GPU copies by itself only from memory that the system cannot move, hence pinned.
    """
    is_gpu = device.type == "cuda"
    return (tensor.pin_memory() if is_gpu else tensor).to(device, non_blocking=is_gpu)


def compile_net(net: nn.Module, reporter: Reporter) -> None:
    """``torch.compile``, in place; the reporter is told, since the first step then seems to hang."""
    reporter.say(COMPILING)
    net.compile()


@contextlib.contextmanager
def memory_explained(
    batch: int, net: nn.Module, faces: Tensor, autocast: Callable[[], contextlib.AbstractContextManager[None]]
) -> Iterator[None]:
    """Where memory does not suffice for what is done within, tries smaller batches and names one that fits.

    Args:
        batch: faces of a step, over all processes.
        net: the backbone, which takes nearly all of the memory.
        faces: (n, 3, H, W) this process' share of the batch.
        autocast: makes the context in which the net is called.

    Raises:
        UsageError: memory does not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if not _lacks_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the feature maps of the batch that did not fit
        said = f"a batch of {batch} does not fit into memory"
        size = len(faces) // 2
        while size and not _fits(net, faces[:size], autocast):
            size //= 2
        fitting = size * batch // len(faces)
        if fitting < 2:
            raise UsageError(f"{said}, nor does one of 2; take a smaller backbone or input_size") from error
        raise UsageError(f"{said}, {fitting} faces do; try --set batch_size={fitting}") from error


def _fits(net: nn.Module, faces: Tensor, autocast: Callable[[], contextlib.AbstractContextManager[None]]) -> bool:
    if faces.device.type == "cuda":
        torch.cuda.empty_cache()
    net.eval()  # takes as much memory, and of several processes none waits for another in its batch norms
    try:
        with autocast():
            embeddings = net(faces)
        embeddings.float().sum().backward()
    except RuntimeError as error:
        if not _lacks_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def _lacks_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)  # as a CPU's allocator says


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process of a run may still take on its device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * next(int(words[1]) for words in lines if words[0] == "MemAvailable:")
        left = _left_in_container()
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return (free if left is None else min(free, left)) // beside
    return None


def _left_in_container() -> int | None:
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, KeyError):
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["file"]
        used = int((group / "memory.current").read_text()) - int(cached)
        return int((group / "memory.max").read_text()) - used
    return None
