#!/bin/sh
# rich 15.0.0: a progress bar on stderr, results on stdout, as in `command > results.csv`.
#
# One would guess: `Progress(console=Console(stderr=True))` draws on stderr and leaves stdout alone.
# What happens: while the bar is up, `redirect_stdout=True`, the default, catches what is printed and sends it to the bar's
# console, which is stderr. At a terminal the results scroll by above the bar and the file stays empty; where stderr is no
# terminal, as in a test, they arrive. `redirect_stdout=False` keeps them.
# Who meets it: whoever prints rows while a bar on stderr is up.
#
# Needs python3 (3.11 or newer) with pip, on Linux or macOS.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check rich==15.0.0
cat > "$folder/rows.py" <<'PY'
import sys

from rich.console import Console
from rich.progress import Progress

with Progress(console=Console(stderr=True), **({} if sys.argv[1] == "default" else {"redirect_stdout": False})) as bar:
    for row in bar.track(range(5)):
        print(f"row {row}")
PY
cat > "$folder/look.py" <<'PY'
import os
import pty
import subprocess
import sys
import threading


def drain(end):
    while os.read(end, 1024):
        pass


for setting in ("default", "redirect_stdout=False"):
    for where in ("a terminal", "a file"):
        if where == "a terminal":
            ours, error = pty.openpty()
            threading.Thread(target=drain, args=(ours,), daemon=True).start()
        else:
            error = subprocess.DEVNULL
        done = subprocess.run([sys.executable, sys.argv[1], setting], stdout=subprocess.PIPE, stderr=error,
                              env={**os.environ, "TERM": "xterm"}, text=True)
        print(f"{setting}, stderr is {where}: {done.stdout.count('row')} of 5 rows on stdout")
PY
seen=$("$folder/venv/bin/python" "$folder/look.py" "$folder/rows.py")
expected='default, stderr is a terminal: 0 of 5 rows on stdout
default, stderr is a file: 5 of 5 rows on stdout
redirect_stdout=False, stderr is a terminal: 5 of 5 rows on stdout
redirect_stdout=False, stderr is a file: 5 of 5 rows on stdout'
echo "$seen"
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
