"""The photos and the session's trained run of ``tests``."""

from tests.conftest import att_people, common, shared, trained

__all__ = ["att_people", "common", "shared", "trained"]
