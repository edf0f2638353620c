"""A head over many classes, whole and with a share of them a step: memory and time.

    python -m benchmarks.classes [--classes 10000 1000000] [--share 0.1] [--rounds 5]

Each head is trained in a process of its own on embeddings drawn at random, without a backbone, on one thread: a step
is logits, loss, gradients and AdamW's work, its time the thread's. Memory is the process' peak less what it had before
the head was made: after the steps, and after a batch of validation and a saved state too. ``estimate`` is what
``edgeface train`` asks to be free.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from edgeface.heads import ClassSampling
from edgeface.training.checkpoints import save_tensors
from edgeface.training.config import DistillConfig, load_config
from edgeface.training.loop import losses
from edgeface.training.training_state import VALIDATED, head_bytes, head_for, make_optimizer
from edgeface_runtime.files import temporary_folder


def peak() -> int:
    """Bytes that this process has had in memory at most."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * next(int(words[1]) for words in lines if words[0] == "VmHWM:")


def measure(classes: int, share: float, rounds: int) -> dict[str, float]:
    """One head's figures, in this process."""
    config = load_config(loss="arcface", class_sampling=share, logit_scale=64.0, batch_size=48)
    batch, length = config.data.batch_size, config.model.embedding_dim
    before = peak()
    head = head_for(config, classes, None)
    optimizer = make_optimizer(head, config.optim)
    sampling = ClassSampling(head, optimizer, share, batch)
    seconds = []
    for step in range(rounds + 1):
        embeddings, classes_of = torch.randn(batch, length, requires_grad=True), torch.randint(0, classes, (batch,))
        start = time.thread_time()
        labels = sampling.columns(classes_of, classes_of.numpy(), step)
        logits = head(embeddings, labels, config.head.margin)
        loss, _ = losses(embeddings, logits, labels, None, batch, DistillConfig(), head)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sampling.release()
        seconds.append(time.thread_time() - start)
        del logits, loss
    steps = peak() - before
    with torch.no_grad():
        labels = torch.randint(0, classes, (VALIDATED,))
        several = [head(torch.randn(VALIDATED, length), labels, margin) for margin in (config.head.margin, 0.0)]
        losses(torch.randn(VALIDATED, length), several[0], labels, None, VALIDATED, DistillConfig(), head)
        del several
    with temporary_folder() as folder:
        states = {f"{name}": value for name, value in optimizer.state[head.weight].items()}
        save_tensors(Path(folder) / "head.safetensors", head.state_dict() | states, {})
    return {
        "step_s": statistics.median(seconds[1:]),
        "steps_gb": steps / 1e9,
        "all_gb": (peak() - before) / 1e9,
        "estimate_gb": head_bytes(config, classes, share) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        torch.set_num_threads(1)
        measure(100, options.one, 1)  # what torch itself loads and sets up is not the head's
        print(json.dumps(measure(options.classes[0], options.one, options.rounds)))
        return
    found = {}
    for classes in options.classes:
        for share in (1.0, options.share):
            words = [sys.executable, "-m", "benchmarks.classes", f"--one={share}", f"--rounds={options.rounds}"]
            done = subprocess.run([*words, f"--classes={classes}"], check=True, stdout=subprocess.PIPE, text=True)
            found[f"{classes}, {share:g}"] = json.loads(done.stdout)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
