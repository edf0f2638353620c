"""Every benchmark in turn, on the AT&T faces: ``make bench``. Each module's --help says more."""

import subprocess
import sys

from edgeface.data.att import att_folder

PHOTO = str(att_folder() / "s1" / "1.pgm")
RUNS = (["detect", PHOTO], ["prepare", str(att_folder()), "--count", "400"], ["training"])

for name, *arguments in RUNS:
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)
