"""Fits the estimates (estimate/fitted.json), measures them on what they were not fitted to, and writes the tables of
docs/estimates.md.

python -m scripts.fit_estimates [--check]
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgeface_devices.boards.profiles import BoardProfile, profiles
from edgeface_devices.estimate import evidence
from edgeface_devices.estimate.evidence import Costs, ncnn_times, nets, rows
from edgeface_devices.estimate.latency import estimate
from scripts import latency_fit
from scripts.latency_fit import (
    by_family,
    cost_half_width,
    engine_ratios,
    errors,
    is_fitted_on,
    is_scored,
    predicted,
    transfer,
)

PAGE = Path(__file__).parent.parent / "docs" / "estimates.md"
CHOSEN_ON = ("rpi-zero-2w", "rpi-4b-1500")
# Median and 90th percentile of the relative error in %, half width of the 90 % interval.
TARGETS = {"float": (10, 25, 1.3), "int8": (12, 30, 1.6), "float on rpi-5": (15, 35, 1.6)}
ANCHOR = "mobilenet_v2"
# The contract's costs of the paper's MobileFaceNet, 112 px, PReLU.
MOBILEFACENET = Costs(
    pointwise=205.586, conv=5.419, depthwise=9.960, linear=0.0, parameters=1.010, activations=5.939, layers=83
)
# Of its TFLite files, one call (docs/bench.md).
INSTRUCTIONS = {
    ("Cortex-A53", "float"): 141_000_000,
    ("Cortex-A53", "int8"): 101_000_000,
    ("Cortex-A72", "float"): 91_600_000,
    ("Cortex-A72", "int8"): 85_200_000,
    ("Cortex-A76", "int8"): 40_200_000,
}


def table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    head = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(head + ["| " + " | ".join(map(str, line)) + " |" for line in lines])


def fitted_times(board: BoardProfile, kind: str, threads: int) -> tuple[str, dict[str, float]]:
    version, times = ncnn_times(board.board, board.clock_mhz, kind, threads)
    return version, {name: ms for name, ms in times.items() if is_fitted_on(name)}


def spread(logs: Iterable[float]) -> str:
    sizes = np.abs(np.expm1(list(logs)))
    return f"{100 * np.median(sizes):.0f} / {100 * np.quantile(sizes, 0.9):.0f}"


def covered(times: dict[str, float], kind: str) -> tuple[list[bool], float]:
    """Whether each net lies within the interval made without its whole family, and those intervals' median factor."""
    found, widths = [], []
    for name, log in errors(times, kind, by_family).items():
        others = {other: ms for other, ms in times.items() if by_family(other) != by_family(name)}
        widths.append(cost_half_width(others, kind))
        found.append(abs(log) <= math.log(widths[-1]))
    return found, float(np.median(widths))


def left_out() -> str:
    lines, hits = [], {"float": [], "int8": []}
    for board in profiles().values():
        for kind in ("float", "int8"):
            for threads in (1, 4):
                version, times = fitted_times(board, kind, threads)
                by_net = errors(times, kind, lambda name: name)
                errs = (by_net.values(), errors(times, kind, by_family).values())
                inside, without = covered(times, kind)
                hits[kind] += inside
                median, p90, width = TARGETS.get(f"{kind} on {board.name}", TARGETS[kind])
                name = f"{board.name}{' *' if board.name in CHOSEN_ON else ''}"
                factor = f"{cost_half_width(times, kind):.2f} (≤ {width})"
                target = f"{median} / {p90}"
                share = f"{100 * np.mean(inside):.0f} % at {without:.2f}"
                lines.append([name, kind, threads, version, len(by_net), *map(spread, errs), target, factor, share])
    columns = ["board", "precision", "threads", "ncnn", "nets", "net left out, %", "family left out, %"]
    text = table([*columns, "target, %", "interval ×/÷ (target)", "covered"], lines)
    shares = "; ".join(f"{kind} {100 * np.mean(inside):.0f} % of {len(inside)}" for kind, inside in hits.items())
    return f"{text}\n\nCovered over all boards: {shares} (target 85 to 95 %)."


def boards_left_out() -> str:
    lines = []
    boards = [profiles()[name] for name in ("rpi-zero-2w", "rpi-3b-plus", "rpi-4b", "rpi-5")]
    for source in boards:
        for target in boards:
            if source is target:
                continue
            here = fitted_times(target, "float", 4)[1]
            there = {name: ms for name, ms in fitted_times(source, "float", 4)[1].items() if name in here}
            logs = {name: math.log(here[name] / there[name]) for name in there}
            by_clock = [log - math.log(source.clock_mhz / target.clock_mhz) for log in logs.values()]
            one = [log - logs[ANCHOR] for name, log in logs.items() if name != ANCHOR]
            rest = [log - float(np.median([logs[o] for o in logs if o != name])) for name, log in logs.items()]
            _, width = transfer(there, here)
            lines.append([source.name, target.name, *map(spread, (by_clock, one, rest)), f"{width:.2f}"])
    columns = ["from", "to", "no row there: by clock, %", f"one row there ({ANCHOR}), %"]
    return table([*columns, "all other rows there, %", "interval ×/÷"], lines)


def other_engines() -> str:
    lines = []
    for board in profiles().values():
        for engine in ("litert", "onnxruntime"):
            for kind in ("float", "int8"):
                found = engine_ratios(board, engine, kind, 4)
                if not found or (engine, kind) in latency_fit.POOLED:
                    continue
                text = ", ".join(f"{name.split()[0]} {ratio:.2f}" for name, ratio in found.items())
                logs = np.log(list(found.values()))
                width = math.exp(np.abs(logs - logs.mean()).max())
                lines.append([board.name, engine, kind, text, f"{math.exp(logs.mean()):.2f}", f"{width:.2f}"])
    return table(["board", "engine", "precision", "time ÷ ncnn float's, 4 threads", "used", "spread ×/÷"], lines)


def int8_left_out() -> str:
    lines, hits = [], {"litert": [], "onnxruntime": []}
    published = {
        (row.board, row.engine, row.net): row.ms for row in rows() if (row.precision, row.threads) == ("int8", 4)
    }
    for engine, found in hits.items():
        logs = latency_fit.pooled(engine, "int8", 4)
        floor = latency_fit.POOLED[engine, "int8"]
        by_net = latency_fit.pooled_errors(logs, lambda name: name)
        for (name, net), (log, width) in latency_fit.pooled_errors(logs, by_family).items():
            board = profiles()[name]
            ms = published[board.board, latency_fit.FAMILIES[engine], net]
            middle, width = ms * math.exp(log), max(width, floor)
            found.append(abs(log) <= math.log(width))
            cells = [f"{ms:.4g}", f"{ms * math.exp(by_net[name, net][0]):.3g}", f"{middle:.3g}"]
            ends = f"{middle / width:.3g} to {middle * width:.3g}"
            lines.append([engine, name, net, *cells, ends, "" if found[-1] else "outside"])
    columns = ["engine", "board", "net", "published, ms", "net left out, ms", "family left out, ms"]
    text = table([*columns, "its interval, ms", ""], lines)
    ratios = {engine: latency_fit.pooled_ratio(engine, "int8", 4) for engine in hits}
    said = [
        f"{engine}: ratio {one['ratio']:.2f}, half width ×{one['half_width']:.2f}, "
        f"{sum(hits[engine])} of {len(hits[engine])} rows inside"
        for engine, one in ratios.items()
        if one
    ]
    return f"{text}\n\n{'; '.join(said)}."


def int8_not_carried() -> str:
    logs = latency_fit.pooled("litert", "int8", 4, joined=True)
    plain = latency_fit.pooled("litert", "int8", 4)
    middle = math.exp(float(np.mean(list(plain.values()))))
    lines = [[name, net, f"{math.exp(log):.2f}", f"{math.exp(log) / middle:.1f}"] for (name, net), log in logs.items()]
    return table(["board", "net", "published ÷ ncnn's float fit", "times what the ratio says"], lines)


def ratio_left_out(board: BoardProfile, kind: str) -> dict[str, tuple[float, float]]:
    """Net of XNNPACK's table → log(predicted ÷ published) by the mean ratio of the others to ncnn.

    First from the net's own row of ncnn; second from ncnn's estimate without the net's family, as for a new net.
    """
    _, times = fitted_times(board, "float", 4)
    logs = {name.split()[0]: math.log(ratio) for name, ratio in engine_ratios(board, "litert", kind, 4).items()}
    found = {}
    for net, log in logs.items():
        others = {other: ms for other, ms in times.items() if by_family(other) != by_family(net)}
        own = float(np.mean([logs[other] for other in logs if other != net])) - log
        found[net] = own, own + math.log(predicted(nets()[net], others, "float") / times[net])
    return found


def _counted_boards() -> Iterable[tuple[BoardProfile, str]]:
    cells = [(board, kind) for board in profiles().values() for kind in ("float", "int8")]
    return [(board, kind) for board, kind in cells if latency_fit.rates(board, kind, 4)]


def instruction_counts() -> str:
    lines = []
    for board, kind in _counted_boards():
        rates, by_ratio = latency_fit.rates(board, kind, 4), ratio_left_out(board, kind)
        published = {row.net: row.ms for row in latency_fit.counted_rows(board, kind, 4)}
        for net, log in latency_fit.counts_left_out(rates).items():
            cells = [f"{rates[net] * published[net] / 1e6:.1f}", f"{published[net]:.3g}"]
            cells.append(f"{rates[net] / 1e3 / board.clock_mhz:.2f}")
            errors_ = [math.expm1(error) for error in (log, *by_ratio.get(net, ()))]
            shown = [f"{100 * error:+.0f}" for error in errors_] + ["–", "–"]
            lines.append([board.name, kind, net, *cells, *shown[:3]])
    columns = ["board", "precision", "net", "M instructions", "published, ms", "IPC, all cores", "counts, %"]
    return table([*columns, "ratio, ncnn's row, %", "ratio, ncnn's estimate, %"], lines)


def counts_against_ratio() -> str:
    lines = []
    for board, kind in _counted_boards():
        logs, by_ratio = latency_fit.counts_left_out(latency_fit.rates(board, kind, 4)), ratio_left_out(board, kind)
        errors_ = [logs.values(), *zip(*by_ratio.values(), strict=True)]
        worst = [math.exp(max(map(abs, each))) for each in errors_]
        used = "counts" if kind == "float" and worst[0] < min(worst[1:]) else "ratio"
        face = {"engine": "litert", "precision": {"float": "fp32", "int8": "int8"}[kind], "threads": 4}
        told = [
            f"{estimate(MOBILEFACENET, board, instructions=number, **face).ms:.3g}"
            for number in (INSTRUCTIONS[board.core, kind], None)
        ]
        lines.append([board.name, kind, len(logs), *(f"{x:.2f}" for x in worst), used, *told])
    columns = ["board", "precision", "nets", "counts ×/÷", "ratio, ncnn's row ×/÷", "ratio, ncnn's estimate ×/÷"]
    return table([*columns, "used", "MobileFaceNet, its count known, ms", "not known, ms"], lines)


def versions() -> str:
    tables: dict[tuple[str, int, str], dict[str, dict[str, float]]] = {}
    for row in rows():
        if row.engine == "ncnn" and row.threads == 4 and row.net in nets() and row.clock_mhz:
            here = tables.setdefault((row.board, row.clock_mhz, row.precision), {})
            here.setdefault(row.version, {})[row.net] = row.ms
    lines = []
    for (board, clock, kind), dated in tables.items():
        for old, new in zip(sorted(dated), sorted(dated)[1:], strict=False):
            pairs = [dated[old][net] / dated[new][net] for net in dated[old] if net in dated[new]]
            shown = [f"{ratio:.2f}" for ratio in np.percentile(pairs, [5, 50, 95])]
            lines.append([f"{board}, {clock} MHz", kind, f"{old} → {new}", len(pairs), *shown])
    return table(["board", "precision", "ncnn", "nets", "5 %", "median of old ÷ new", "95 %"], lines)


def against_published() -> str:
    lines = []
    for name in ("rpi-4b", "rpi-5"):
        _, times = fitted_times(profiles()[name], "float", 4)
        for net, log in errors(times, "float", by_family).items():
            others = {other: ms for other, ms in times.items() if by_family(other) != by_family(net)}
            width, ms = cost_half_width(others, "float"), times[net] * math.exp(log)
            inside = "" if abs(log) <= math.log(width) else "outside"
            lines.append([name, net, f"{times[net]:.1f}", f"{ms:.1f}", f"{ms / width:.1f} to {ms * width:.1f}", inside])
    return table(["board", "net", "published, ms", "predicted, ms", "interval, ms", ""], lines)


def refused() -> str:
    lines = []
    for board in profiles().values():
        _, fitted = fitted_times(board, "float", 4)
        _, times = ncnn_times(board.board, board.clock_mhz, "float", 4)
        beyond = [name for name in nets() if name in times and not is_scored(name)]
        cells = []
        for name in beyond:
            others = {other: ms for other, ms in fitted.items() if by_family(other) != by_family(name)}
            cells.append(f"{name} {times[name] / predicted(nets()[name], others, 'float'):.2f}")
        lines.append([board.name, ", ".join(cells)])
    return table(["board", "published ÷ predicted, 4 threads, float"], lines)


def mobilefacenet() -> str:
    lines = []
    for board in profiles().values():
        for precision in ("fp32", "int8"):
            cells = []
            for engine in ("ncnn", "litert", "onnxruntime"):
                ms = estimate(MOBILEFACENET, board, engine=engine, precision=precision, threads=4).ms
                cells.append(f"{ms:.3g}" if ms else "no basis")
            lines.append([board.name, precision, *cells])
    return table(["board", "precision", "ncnn, ms", "litert, ms", "onnxruntime, ms"], lines)


def page(text: str) -> str:
    """The page with every table between ``<!-- table: NAME -->`` and ``<!-- end -->`` made anew."""
    # fmt: off
    makers = (left_out, boards_left_out, other_engines, int8_left_out, int8_not_carried, instruction_counts,
              counts_against_ratio, versions, against_published, refused, mobilefacenet)
    # fmt: on
    made = {made.__name__: made for made in makers}

    def fill(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{made[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    # First the numbers: the page shows what they say.
    for path, make in ((evidence.FITTED, lambda _: latency_fit.text(latency_fit.fit())), (PAGE, page)):
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = make(old)
        if old != new and check:
            stale.append(path.name)
        elif old != new:
            path.write_text(new, encoding="utf-8")
            evidence.fitted.cache_clear()
    if stale:
        print(f"not current: {', '.join(stale)}; run python -m scripts.fit_estimates", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
