"""What a model file says of itself, and whether it still holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from edgeface_runtime.contract import Contract, Golden, is_intact, read_contract
from edgeface_runtime.errors import ModelError
from edgeface_runtime.metadata import file_format
from edgeface_runtime.model import load


@dataclass(frozen=True)
class Inspection:
    """One inspected file."""

    path: Path
    format: str
    contract: Contract
    intact: bool
    """The file's digest is the one that its contract states."""
    min_cosine: float | None
    """Least cosine of the golden vectors on this machine; None when they were not computed."""
    reason: str | None
    """Why the file is not to be trusted; None when it is."""
    size_bytes: int
    sha256: str

    @property
    def ok(self) -> bool:
        """True when digest and golden vectors hold."""
        return self.reason is None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(cost.macs for cost in self.contract.cost.values())

    def as_json(self) -> dict[str, object]:
        """The document of ``edgeface inspect --json``, schema 1."""
        return {
            "schema": 1,
            "path": str(self.path),
            "format": self.format,
            "contract": json.loads(self.contract.to_json()),
            "intact": self.intact,
            "golden": {"ok": self.ok, "min_cosine": self.min_cosine, "reason": self.reason},
            "operators": self.contract.operators,
            "macs": self.macs,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
        }

    def rows(self) -> list[tuple[str, str]]:
        """(key, value) lines for a person; thresholds and accuracy are tables of their own."""
        contract = dataclasses.asdict(self.contract)
        hidden = ("golden", "cost", "file_sha256", "schema", "thresholds", "accuracy", "members")
        if kept := len((contract["calibration"] or {}).pop("float_layers", None) or ()):
            contract["calibration"]["layers in float"] = kept
        rows = [(name, _shown(value)) for name, value in contract.items() if name not in hidden and value]
        for member in self.contract.members:
            about = f"{member.name}, weight {member.weight:.3g}, sha256 {member.sha256}"
            rows.append((member.file, about))
        for name, cost in self.contract.cost.items():
            shown = f"{cost.count} operators, {cost.macs / 1e6:.1f} M MAC, {cost.bytes:,} bytes"
            rows.append((f"cost of {name}", shown))
        rows.append(("multiply-accumulates", f"{self.macs / 1e6:.1f} M" if self.contract.cost else "unknown"))
        rows.append(("file", f"{self.format}, {self.size_bytes:,} bytes, sha256 {self.sha256}"))
        rows.append(("digest", "holds" if self.intact else "DIFFERS"))
        cosine = "not computed" if self.min_cosine is None else f"least cosine {self.min_cosine:.6f}"
        rows.append(("golden vectors", f"{'hold' if self.ok else 'FAIL'}, {cosine}"))
        return rows

    def thresholds(self) -> list[tuple[str, str, str, str, str]]:
        """(FMR, threshold, its interval, impostor pairs, genuine pairs accepted) of each rate, the largest first."""
        rows = []
        for rate, found in sorted(self.contract.thresholds.items(), key=lambda item: -float(item[0])):
            if found is None:
                rows.append((_rate(rate), "none", "not measured", "", ""))
                continue
            low, high, tar = found.get("low"), found.get("high"), found.get("tar")
            rows.append(
                (
                    _rate(rate),
                    f"{found['value']:.3f}",
                    "" if low is None or high is None else f"{low:.3f} to {high:.3f}",
                    f"{found['pairs']:,}" if "pairs" in found else "",
                    "" if tar is None else f"{100 * tar:.1f} %",
                )
            )
        return rows

    def accuracy(self) -> list[tuple[str, str, str, str]]:
        """(measure, value, its interval, photos or pairs) of each accuracy that the contract states."""
        rows = []
        for name, found in self.contract.accuracy.items():
            if not isinstance(found, dict) or not isinstance(found.get("value"), float | int):
                continue
            low, high, count = found.get("low"), found.get("high"), found.get("count", found.get("pairs"))
            interval = "" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}"
            rows.append((name, f"{100 * found['value']:.2f} %", interval, "" if count is None else f"{count:,}"))
        return rows


def inspect_file(path: str | Path, *, threads: int = 1) -> Inspection:
    """Reads the contract, checks the digest, runs the golden probes.

    Raises:
        ModelError: no model file, cut short, or without a contract.
    """
    path = Path(path)
    contract = read_contract(path)
    data = path.read_bytes()
    intact = is_intact(path)
    # A changed file is not run: an engine given a damaged graph may take the process down with it.
    changed = (None, "changed since it was exported: its digest differs")
    cosine, reason = _golden(path, contract.golden, threads) if intact else changed
    return Inspection(
        path, file_format(data), contract, intact, cosine, reason, len(data), hashlib.sha256(data).hexdigest()
    )


def _golden(path: Path, golden: Golden | None, threads: int) -> tuple[float | None, str | None]:
    """(least cosine where it could be computed, why the golden vectors do not hold or None)."""
    try:
        cosine = load(path, threads=threads).golden_cosine()
    except ModelError as error:
        return None, str(error).removeprefix(f"{path}: ")
    if golden is None or cosine is None:
        return None, "has no golden vectors"
    if cosine < golden.min_cosine:
        return cosine, f"golden vectors differ: cosine {cosine:.6f}, at least {golden.min_cosine} is needed"
    return cosine, None


def _rate(text: str) -> str:
    return f"{float(text):.12f}".rstrip("0").rstrip(".")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items() if item is not None)
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value))
    return str(value)
