"""The findings of ``edgeface doctor`` about a machine over ssh."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

from edgeface_devices.doctor import Finding
from edgeface_devices.remote.ssh import connect
from edgeface_devices.wheel import write_wheel
from edgeface_runtime.files import temporary_folder

_OLD, _NO_PYTHON = 3, 4
_EXAMINE = """
set -e
base=${{XDG_CACHE_HOME:-$HOME/.cache}}/edgeface
python={python}
[ "$python" != python3 ] || [ ! -x "$base/venv/bin/python" ] || python=$base/venv/bin/python
"$python" -c pass 2> /dev/null || exit 4
"$python" -c 'import sys; print(sys.version.split()[0]); sys.exit(3 * (sys.version_info < (3, 11)))'
mkdir -p "$base"
folder=$(mktemp -d "$base/doctor-XXXXXX")
trap 'rm -rf "$folder"' EXIT
tar -x -C "$folder" -f -
cd "$folder"
"$python" -m zipfile -e edgeface.whl lib
PYTHONPATH=$folder/lib "$python" -P -m edgeface_devices.doctor
"""


def examine_host(host: str, *, options: Sequence[str] = (), python: str = "python3") -> list[Finding]:
    """All findings about a machine; edgeface's wheel is sent for it, and removed again.

    Args:
        host: as ssh takes it.
        options: more options for ssh -o.
        python: the Python there.

    Raises:
        UsageError: the machine cannot be reached, or refuses us; says why and what to do.
    """
    with temporary_folder() as scratch, connect(host, options) as connection:
        load = io.BytesIO()
        with tarfile.open(fileobj=load, mode="w") as archive:
            archive.add(write_wheel(Path(scratch)), "edgeface.whl")
        done = connection.run(_EXAMINE.format(python=shlex.quote(python)), load.getvalue())
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode == _NO_PYTHON:
        remedy = "sudo apt-get install python3 python3-venv, or name it by --host-python"
        return [Finding(level="wrong", topic="Python", text=f"none is called {python} there", remedy=remedy)]
    if done.returncode == _OLD:
        remedy = "edgeface needs Python 3.11 or newer (--host-python)"
        return [Finding(level="wrong", topic="Python", text=lines[0], remedy=remedy)]
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
        remedy = "install the wheel there, in a virtual environment (docs/pi.md), and name its Python by --host-python"
        return [Finding(level="wrong", topic="Python", text=f"cannot run edgeface: {said}", remedy=remedy)]
    return [Finding(**entry) for entry in json.loads(lines[-1])]
