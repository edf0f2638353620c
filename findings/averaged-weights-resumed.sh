#!/bin/sh
# torch 2.13.0, torch.optim.swa_utils.AveragedModel: what a resumed run makes of an average of the weights.
#
# One would guess: the average is the averaged net, so that a checkpoint with `average.module.state_dict()` is enough to
# go on from; it loads without a word, and evaluates as it did.
# What happens: the count of averaged steps, `n_averaged`, is a buffer of the wrapper and not of the net. It begins at 0,
# and at 0 the next `update_parameters` copies the weights over the average. All that was averaged is gone after one
# step, and nothing says so. The wrapper's own `state_dict()` holds the count.
# Who meets it: whoever stores the averaged net because that is the net to ship, and resumes from it.
#
# Needs python3 (3.11 or newer) with pip.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6

seen=$("$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_of(net):
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def step(net, value):
    with torch.no_grad():
        net.weight.fill_(value)


net = torch.nn.Linear(1, 1, bias=False)
step(net, 0.0)
unbroken = average_of(net)
for value in (0.0, 0.0, 0.0):
    step(net, value)
    unbroken.update_parameters(net)
by_net, by_wrapper = average_of(net), average_of(net)
by_net.module.load_state_dict(unbroken.module.state_dict())
by_wrapper.load_state_dict(unbroken.state_dict())
step(net, 1.0)
for name, average in (("never stopped", unbroken), ("wrapper restored", by_wrapper), ("net restored", by_net)):
    average.update_parameters(net)
    print(f"{name:18} {average.module.weight.item():.2f}")
PYTHON
)
expected='never stopped      0.10
wrapper restored   0.10
net restored       1.00'
echo "$seen"
[ "$seen" = "$expected" ] || { printf 'changed; it was:\n%s\n' "$expected"; exit 1; }
