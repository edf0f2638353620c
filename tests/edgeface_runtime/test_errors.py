from __future__ import annotations

import inspect
import pickle

import pytest

from edgeface_runtime import MissingExtraError, errors

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.EdgefaceError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_whole_from_another_process(kind: type[errors.EdgefaceError]):
    error = kind("imagehash", "data") if kind is MissingExtraError else kind("what, where, what to do")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (kind, str(error), vars(error))
