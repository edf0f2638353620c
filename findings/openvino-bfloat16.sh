#!/bin/sh
# OpenVINO 2026.4.1, CPU plugin: what a float32 model is computed in.
#
# One would guess: float32, as every other engine does on a CPU; a lower precision is something that one asks for.
# What happens: on a processor with AVX512-BF16 or AMX, which many servers and few laptops have, it is bfloat16. Each product
# keeps eight bits of its factors, so that the answers of a small net differ in the third digit, and the same program gives
# other numbers on the next machine. Nothing says so; the compiled model's property does when it is asked.
# INFERENCE_PRECISION_HINT f32 gives float32.
# Who meets it: whoever compares embeddings with those of another engine or machine, or has a threshold from there.
#
# Needs python3 (3.11 or newer) with pip, and an x86-64 processor with avx512_bf16 or amx_bf16 (see /proc/cpuinfo).
set -eu
if ! grep -q -e avx512_bf16 -e amx_bf16 /proc/cpuinfo; then echo "this processor has no bfloat16: nothing to see"; exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6

cat > "$folder/look.py" <<'PY'
import numpy as np
import openvino as ov
from openvino import opset13 as ops

rng = np.random.default_rng(0)
matrix, row = (rng.normal(size=size).astype(np.float32) for size in ((512, 512), (1, 512)))
given = ops.parameter([1, 512], np.float32)
model = ov.Model([ops.matmul(given, ops.constant(matrix), False, False)], [given])
exact = row.astype(np.float64) @ matrix
for name, options in (("as it comes", {}), ("asked for f32", {"INFERENCE_PRECISION_HINT": "f32"})):
    compiled = ov.Core().compile_model(model, "CPU", options)
    error = np.abs(compiled(row)[0] - exact).max() / np.abs(exact).max()
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    print(f"{name:14} {precision:5} error {'above 0.0005' if error > 5e-4 else 'below 0.00001' if error < 1e-5 else error}")
PY
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
expected='as it comes    bf16  error above 0.0005
asked for f32  f32   error below 0.00001'
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
