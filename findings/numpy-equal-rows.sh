#!/bin/sh
# numpy 2.4.6 (OpenBLAS 0.3.31): scores of equal rows, `matrix @ vector`.
#
# One would guess: rows that are equal to the last bit get scores that are equal to the last bit.
# What happens: the last rows of a block go through another kernel, which adds in another order. Of 1,003 copies of one row
# some score differently, and which do depends on how many rows there are; with a matrix of several queries, on these too.
# `numpy.vecdot` scores equal rows alike, and on a tall matrix is no slower.
# Who meets it: whoever ranks by score and counts on ties, or adds a row and finds that other rows' order has changed.
#
# Needs python3 (3.11 or newer) with pip, and an x86-64 processor with AVX2: the kernel is fixed, so that others agree.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6
cat > "$folder/look.py" <<'PY'
import numpy as np

rng = np.random.default_rng(0)
row, query = (rng.normal(size=512).astype(np.float32) for _ in range(2))
for count in (1000, 1003):
    rows = np.tile(row, (count, 1))
    for name, scores in (("matrix @ vector", rows @ query), ("vecdot", np.vecdot(rows, query))):
        print(f"{count} equal rows, {name:15} {len(np.unique(scores))} different scores")
PY
seen=$(OPENBLAS_CORETYPE=Haswell OPENBLAS_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
expected='1000 equal rows, matrix @ vector 1 different scores
1000 equal rows, vecdot          1 different scores
1003 equal rows, matrix @ vector 3 different scores
1003 equal rows, vecdot          1 different scores'
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
