"""The page that a bench or a demo ends with."""

from edgeface.report.page import Photos, write_report

__all__ = ["Photos", "write_report"]
