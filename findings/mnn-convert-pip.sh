#!/bin/sh
# MNN 3.6.1 (Python package), MNN.tools.mnnconvert: what the import does.
#
# One would guess: it imports a converter of model files, which works offline and touches nothing but its files.
# What happens: it runs `pip install -U aliyun-log-python-sdk`, with whichever pip is first on PATH, which need not belong to
# the Python that runs; once that package is there, each conversion is reported over the network. The converter itself
# needs neither: `_tools.mnnconvert([...])`, which the module calls, converts alone.
# Who meets it: whoever converts models in a build, on a machine that must not change, or for a customer.
#
# Needs python3 (3.11 or newer) with pip, and user namespaces: a pip that only writes down how it was called stands first on
# PATH, and the process that imports has a network of its own without any way out. Nothing is installed and nothing is sent.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check MNN==3.6.1 numpy==2.4.6
mkdir "$folder/first"
printf '#!/bin/sh\necho "calls pip $*" >> "%s/calls"\n' "$folder" > "$folder/first/pip"
chmod +x "$folder/first/pip"

watch() { # NAME CODE
    : > "$folder/calls"
    PATH="$folder/first:$PATH" unshare --user --map-root-user --net "$folder/venv/bin/python" -c "$2" > /dev/null 2>&1
    printf '%-27s %s\n' "$1" "$(if [ -s "$folder/calls" ]; then sort -u "$folder/calls"; else echo "calls nothing"; fi)"
}
seen=$(watch "import MNN, _tools" "import MNN, _tools"; watch "import MNN.tools.mnnconvert" "import MNN.tools.mnnconvert")
echo "$seen"
expected='import MNN, _tools          calls nothing
import MNN.tools.mnnconvert calls pip install -U aliyun-log-python-sdk'
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
