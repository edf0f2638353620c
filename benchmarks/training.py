"""A training step fed from the data against the same step on a batch that already lies in memory.

    python -m benchmarks.training [DATA] [--backbone mobilefacenet] [--batch 32] [--rounds 8]

Steps take turns. Fed: rows from the (memory-mapped) faces, copy, normalise, augment. Still: one
normalised batch, used again. Prints one JSON document: median seconds a step, images a second, and the
share of the still step's speed that the fed one reaches.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from edgeface.backbones import build_backbone
from edgeface.data.att import att_folder
from edgeface.data.dataset import load_data
from edgeface.heads import build_head
from edgeface.training.augment import augment, draw, normalize
from edgeface.training.config import load_config
from edgeface.training.loop import losses
from edgeface.training.training_state import Learner, Pool, make_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--backbone", default="mobilefacenet")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(backbone=options.backbone, batch_size=options.batch)
    data = load_data(options.data) if options.data else load_data(att_folder(), pattern="*.pgm")
    pool = Pool(data, None, None, torch.device("cpu"))
    net = build_backbone(config.model.backbone, embedding=config.model.embedding_dim, size=config.model.input_size)
    scale, margin = config.head.logit_scale, config.head.margin
    head = build_head(config.head.loss, config.model.embedding_dim, len(data.identities), s=scale, m=margin)
    learner = Learner(net, head).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(learner, config.optim)
    rng = np.random.default_rng(0)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16")

    def fed() -> tuple[torch.Tensor, torch.Tensor]:
        faces, labels, _ = pool.batch(rng.choice(len(data.faces), config.data.batch_size))
        drawn = draw(config.data.batch_size, torch.Generator().manual_seed(int(rng.integers(1 << 31))))
        x = augment(normalize(faces, *config.model.pixel_statistics), drawn, config.augment)
        return x.contiguous(memory_format=torch.channels_last), labels

    still = fed()

    def step(x: torch.Tensor, labels: torch.Tensor) -> None:
        with autocast:
            embeddings, logits = learner(x, labels, config.head.margin)
        loss, _ = losses(embeddings, logits, labels, None, config.data.batch_size, config.distill)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    seconds: dict[str, list[float]] = {"fed": [], "still": []}
    for number in range(options.rounds + 2):
        for name, make in (("fed", fed), ("still", lambda: still)):
            start = time.thread_time()
            step(*make())
            if number >= 2:
                seconds[name].append(time.thread_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    document = {
        "backbone": config.model.backbone,
        "precision": options.precision,
        "cpu_s_per_step": medians,
        "images_per_cpu_s": {name: config.data.batch_size / value for name, value in medians.items()},
        "fed_over_still_speed": medians["still"] / medians["fed"],
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
