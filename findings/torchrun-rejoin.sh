#!/bin/sh
# torch 2.13.0: `torchrun --nnodes 2 --rdzv-backend c10d --max-restarts N`, where a machine is lost and started again.
#
# One would guess: the new agent joins the one that has stayed, and both start their workers again; that is what elastic means.
# What happens: the agent of rank 0 shares one store with the workers of all rounds and tells where it is in the first
# round alone. An agent that is new waits for that word in a later round, for 60 seconds, and ends with "wait timeout after
# 60000ms, keys: …/MASTER_ADDR"; so does the other.
# Who meets it: whoever trains on several machines and starts one again. What to do: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# on all of them.
#
# Needs python3 (3.11 or newer) with pip; two to three minutes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/worker.py" <<'PY'
import sys
import time
from pathlib import Path

import torch.distributed as dist

dist.init_process_group("gloo")
dist.barrier()
met = sys.argv[1]
if dist.get_rank() == 0:
    Path(f"{met}.{len(list(Path().glob(f'{met}.*')))}").touch()
for _ in range(600):  # until the other is gone, or both have met twice
    time.sleep(0.2)
    dist.barrier()
    if Path(f"{met}.1").exists():
        break
PY
cat > "$folder/look.py" <<'PY'
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def children(pid):
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [each for child in found for each in (child, *children(child))]


def met_twice(name, extra):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    words += ["--rdzv-backend=c10d", "--rdzv-id=1", f"--rdzv-endpoint=127.0.0.1:{port}", "worker.py", name]
    start = lambda: subprocess.Popen(words, env=os.environ | extra, stderr=(log := open(f"log-{name}", "a")))
    here = lambda: len(list(Path().glob(f"{name}.[0-9]")))
    first = start()
    while socket.socket().connect_ex(("127.0.0.1", port)):  # the first agent is to hold the meeting point
        time.sleep(0.1)
    second = start()
    while here() < 1:
        time.sleep(0.1)
    for pid in (second.pid, *children(second.pid)):
        os.kill(pid, signal.SIGKILL)
    second.wait()
    codes = [each.wait() for each in (start(), first)]
    return here() >= 2 and codes == [0, 0]


environment = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
if met_twice("shared", environment):
    sys.exit("changed: an agent that comes back joins the other")
if "MASTER_ADDR" not in Path("log-shared").read_text():
    sys.exit("changed: it fails in another way")
print("an agent that came back: the run ended, waiting for MASTER_ADDR")
if not met_twice("apart", environment | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}):
    sys.exit("changed: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 does not help")
print("with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: it joined the other")
PY
cd "$folder" && "$folder/venv/bin/python" look.py
