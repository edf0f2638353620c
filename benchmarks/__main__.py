"""Every benchmark in turn, on the AT&T faces: ``make bench``. Each module's --help says more."""

import subprocess
import sys

from edgeface.data.att import att_folder
from edgeface_runtime.model import DEFAULT, shipped

PHOTO = str(att_folder() / "s1" / "1.pgm")
RUNS = (
    ["detect", PHOTO],
    ["prepare", str(att_folder()), "--count", "400"],
    ["training"],
    ["search"],
    ["enroll"],
    ["export"],
    ["tensorflow_int8"],
)

NAMING = (
    (["photo", DEFAULT, str(att_folder() / "s1")], ["start", DEFAULT, PHOTO], ["empty", DEFAULT, PHOTO])
    if shipped()
    else ()
)

for name, *arguments in (*RUNS, *NAMING):
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], check=True)
