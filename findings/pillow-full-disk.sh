#!/bin/sh
# Pillow 13.0.0: `Image.save` of a JPEG to a path, on a disk that fills.
#
# One would guess: a full disk is an OSError.
# What happens: save hands the file's descriptor to code in C that asks write() whether it failed, not how much it took. A
# disk that fills within the last write takes a part of it: no error, and a picture without its end.
# Who meets it: whoever renames a picture to its final name once save has returned. What to do: save into io.BytesIO, and
# write its bytes.
#
# Needs python3 (3.11 or newer) with pip. A limit on the size of files stands for the disk.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cat > "$folder/look.py" <<'PY'
import io
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from PIL import Image

picture, whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), io.BytesIO()
picture.save(whole, "JPEG")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole.getvalue()) - 100, resource.RLIM_INFINITY))
try:
    picture.save("direct.jpg", "JPEG")
except OSError as error:
    sys.exit(f"changed: save says {error}")
print(f"save said nothing; {Path('direct.jpg').stat().st_size} of {len(whole.getvalue())} bytes are there")
try:
    Path("memory.jpg").write_bytes(whole.getvalue())
    sys.exit("changed: the same bytes from memory were taken")
except OSError as error:
    print(f"the same bytes from memory: {error}")
PY
cd "$folder" && "$folder/venv/bin/python" look.py
