#!/bin/sh
# Python 3.11 to 3.13: a program run as `python -m`, and Ctrl-C that it catches.
#
# One would guess: a program that catches KeyboardInterrupt and calls sys.exit(130) ends with 130.
# What happens: where the interrupt passed through an exec or eval of a text, Python remembers it as unhandled. A program run
# by -m is then ended by SIGINT itself: a shell shows 130, but whoever asks for the code (subprocess, a service manager) gets
# −2. The same file run by its path, or by -c, ends with 130.
# Who meets it: dataclasses and namedtuple execute texts, so it takes nothing more than Ctrl-C while modules are imported;
# importing PyTorch's compiler, as the first optimizer does, executes 1,700 of them.
# What to do: exec("") before sys.exit; the next text that is executed forgets the interrupt.
#
# Needs python3 (3.11 or newer).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/caught.py" <<'PY'
import sys

try:
    exec("raise KeyboardInterrupt")
except KeyboardInterrupt:
    pass
if "forget" in sys.argv:
    exec("")
sys.exit(130)
PY
cd "$folder" && python3 - <<'PY'
import subprocess
import sys

found = {}
for words in ("caught.py", "-m caught", "-m caught forget"):
    found[words] = subprocess.run([sys.executable, *words.split()]).returncode
    print(f"python {words}: {found[words]}")
sys.exit("changed" if list(found.values()) != [130, -2, 130] else 0)
PY
