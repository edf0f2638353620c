"""What a stranger meets in the four packages, in figures: sizes, circles, layers, names with two meanings, ``Any``.

python scripts/structure.py            # the figures
python scripts/structure.py --check    # exit 1 where one is over its limit
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "edgeface": ROOT / "edgeface",
    "edgeface_export": ROOT / "export" / "edgeface_export",
    "edgeface_devices": ROOT / "devices" / "edgeface_devices",
    "edgeface_runtime": ROOT / "runtime" / "edgeface_runtime",
}
# Figure → the most that `make check` lets through; a figure without a limit is for reading.
LIMITS = {
    "modules in a circle": 0,
    "imports against the layers": 0,
    "class names with two meanings": 0,
    "lines with Any": 60,
    "longest module, lines": 400,
    "longest function, lines": 165,
}

ANY = re.compile(r"\bAny\b")


def circle(graph: grimp.ImportGraph) -> list[str]:
    """One circle of imports, those for type checkers counted; empty where there is none."""
    try:
        TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def figures() -> tuple[dict[str, float], list[str]]:
    """Each figure by its name, and a line for each thing that a limit speaks of."""
    files = [path for root in PACKAGES.values() for path in sorted(root.rglob("*.py"))]
    sources = {path: path.read_text() for path in files}
    trees = {path: ast.parse(text) for path, text in sources.items()}
    nodes = list(chain.from_iterable(ast.walk(tree) for tree in trees.values()))
    functions = sorted(
        node.end_lineno - node.lineno + 1  # type: ignore[operator]
        for node in nodes
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    modules = sorted(text.count("\n") for text in sources.values() if text)
    classes = Counter(node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef))
    twice = sorted(name for name, count in classes.items() if count > 1 and not name.startswith("_"))
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)
    round_trip = circle(graph)
    against = graph.find_illegal_dependencies_for_layers(layers=tuple(PACKAGES))
    found = {
        "modules": len(modules),
        "median module, lines": statistics.median(modules),
        "longest module, lines": modules[-1],
        "lines": sum(modules),
        "functions": len(functions),
        "median function, lines": statistics.median(functions),
        "95 of 100 functions within, lines": functions[int(0.95 * len(functions))],
        "longest function, lines": functions[-1],
        "modules in a circle": max(0, len(round_trip) - 1),
        "imports against the layers": len(against),
        "class names with two meanings": len(twice),
        "lines with Any": sum(bool(ANY.search(line)) for text in sources.values() for line in text.splitlines()),
    }
    told = [f"circle: {' -> '.join(round_trip)}"] if round_trip else []
    told += [f"against the layers: {package.importer} -> {package.imported}" for package in against]
    told += [f"two meanings: {name}" for name in twice]
    return found, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 where a figure is over its limit")
    found, told = figures()
    for name, value in found.items():
        print(f"{name:36}{value:8g}" + (f"   (limit {LIMITS[name]})" if name in LIMITS else ""))
    print("\n".join(told))
    over = [name for name, limit in LIMITS.items() if found[name] > limit]
    if parser.parse_args().check and over:
        sys.exit(f"over the limit: {', '.join(over)}")


if __name__ == "__main__":
    main()
