"""Processors and memory of another machine, imposed on a process of this one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgeface_runtime import ModelError, UsageError


class DoesNotFitError(ModelError):
    """A model does not run within the memory that it was given."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one model's process may use; None: no limit."""

    cpus: int | None = None
    """Processors that it may run on."""
    memory_mb: int | None = None
    """Private memory (``RLIMIT_DATA``: heap and anonymous pages, not code), in 10⁶ bytes."""

    @property
    def words(self) -> str:
        """``on 1 cpu, in 60 MB``; empty without a limit."""
        cpus = "" if self.cpus is None else f"on {self.cpus} cpu{'s' if self.cpus > 1 else ''}"
        memory = "" if self.memory_mb is None else f"in {self.memory_mb} MB"
        return ", ".join(filter(None, [cpus, memory]))

    def check(self) -> None:
        """Asks whether this machine can impose them.

        Raises:
            UsageError: a number below 1, more processors than there are, or a system without such limits.
        """
        if self.cpus is not None:
            if not hasattr(os, "sched_getaffinity"):
                raise UsageError("--cpus needs Linux: this system does not tie a process to processors")
            there = len(os.sched_getaffinity(0))
            if not 1 <= self.cpus <= there:
                raise UsageError(f"--cpus is {self.cpus}; this machine has 1 to {there}")
        if self.memory_mb is not None:
            if self.memory_mb < 1:
                raise UsageError(f"--memory is {self.memory_mb} MB; it must be at least 1")
            if not Path("/proc/self").is_dir():
                raise UsageError("--memory needs Linux: this system does not limit a process's memory")


NO_LIMITS = Limits()
