#!/bin/sh
# usearch 2.26.6: a cosine index that keeps vectors in eight bits (dtype="i8").
#
# One would guess: cosine ignores length, so each vector is stored with its largest component at 127, or at least a
# vector that is given so is.
# What happens: float vectors are brought to length 1 first and then multiplied by about 127. Of 512 components none is
# larger than 0.2, so 20 or so of the 127 steps are in use, whatever length the vectors were given in: a sixth of the ten
# nearest neighbors are other ones. Vectors that are given as int8, each by its own scale, are stored as they are, and the
# loss is a tenth of that.
# Who meets it: whoever stores embeddings of faces, texts or pictures in eight bits.
#
# Needs python3 (3.11 or newer) with pip.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 usearch==2.26.6
cat > "$folder/look.py" <<'PY'
import numpy as np
from usearch.index import Index

rng = np.random.default_rng(0)
count, length, k = 4000, 512, 10
rows = 0.8 * rng.normal(size=length) + rng.normal(size=(count, length))
rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
queries = (rows[:200] + 0.03 * rng.normal(size=(200, length))).astype(np.float32)
nearest = np.argsort(-(queries @ rows.T), axis=1)[:, :k]


def full(vectors):
    return vectors / np.abs(vectors).max(axis=1, keepdims=True)


def recall(stored, asked):
    index = Index(ndim=length, metric="cos", dtype="i8")
    index.add(np.arange(count), stored)
    found = index.search(asked, k, exact=True).keys  # no graph: all that is lost is lost by rounding
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(nearest, found)])


for name, stored, asked in (
    ("float, length 1", rows, queries),
    ("float, largest component 1", full(rows), full(queries)),
    ("int8, largest component 127", *(np.rint(127 * full(x)).astype(np.int8) for x in (rows, queries))),
):
    print(f"{name:28} {recall(stored, asked):.2f} of the {k} nearest")
PY
seen=$("$folder/venv/bin/python" "$folder/look.py")
expected='float, length 1              0.84 of the 10 nearest
float, largest component 1   0.84 of the 10 nearest
int8, largest component 127  0.98 of the 10 nearest'
echo "$seen"
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
