"""Embeddings of the same faces on this machine, to compare those of another with."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from edgeface_devices.bench.process import Worker
from edgeface_devices.measurement import Embeddings, Faces
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.model import probe_images


def faces_for(size: int, faces: Faces | None) -> Faces:
    """The faces that both machines embed: the given ones, else the four golden probe images."""
    return probe_images(size) if faces is None else faces


def embed_here(path: Path, faces: Faces, *, threads: int) -> tuple[Embeddings, str]:
    """(N, D) unit embeddings by a fresh process of this machine, and the engine's version.

    Raises:
        ModelError: the file is no model, or its process died; names it.
    """
    with temporary_folder() as folder, closing(Worker(path, threads=threads)) as worker:
        source = Path(folder) / "faces.npy"
        np.save(source, faces)
        return worker.embed(source, Path(folder) / "embeddings.npy"), worker.loaded.engine_version
