"""Opens the shipped files and small exports in each engine of engines.toml, and writes docs/engines.md.

    python -m reproduce.engines work/engines

Each engine gets an environment of its own in the folder, each trial a process of its own with a time limit.
What is done already, of the same bytes, is not done again; what cannot be installed is said, and tried again next time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reproduce.engines.environments import NotInstalledError, prepare
from reproduce.engines.files import model_files
from reproduce.engines.manifest import Engine, load_manifest
from reproduce.engines.page import rewrite, tables
from reproduce.engines.trial import Trial, attempt, keep, known_trial

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"


def main(argv: list[str] | None = None) -> None:
    """Installs, tries, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for environments, exports and answers")
    parser.add_argument("files", type=Path, nargs="*", help="more files with contracts and golden vectors")
    parser.add_argument("--only", default="", help="engines whose name holds this text; the page is left alone")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write the tables into")
    options = parser.parse_intermixed_args(argv)
    work = options.work.resolve()
    files = model_files(work / "files", options.files)
    engines = [engine for engine in load_manifest() if options.only.lower() in engine.slug]
    trials: dict[tuple[Engine, Path], Trial] = {}
    for engine in engines:
        for file in files:
            if file.format in engine.reads and (known := known_trial(engine, file, work / "answers")):
                trials[engine, file.path] = known
        todo = [file for file in files if file.format in engine.reads and (engine, file.path) not in trials]
        if not todo:
            continue
        print(f"{engine.name} {engine.version}", file=sys.stderr)
        try:
            environment = prepare(engine, work / "environments")
        except NotInstalledError as error:
            print(f"  not installed: {error}", file=sys.stderr)
            trials |= {(engine, file.path): Trial("not installed", str(error)) for file in todo}
            continue
        for file in todo:
            trial = attempt(engine, file, environment)
            cosine = "" if trial.outputs is None else f" {file.golden_cosine(trial.outputs):.5f}"
            print(f"  {file.path.name}: {trial.outcome}{cosine} {trial.said}", file=sys.stderr)
            keep(engine, file, work / "answers", trial)
            trials[engine, file.path] = trial
    if not options.only:
        rewrite(options.page, tables(engines, files, trials))


if __name__ == "__main__":
    main()
