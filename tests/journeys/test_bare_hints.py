"""What needs an extra names the smallest that helps, in one line."""

from __future__ import annotations

from typing import Any

import pytest

GALLERY = "--gallery known.gallery"


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (f"edgeface run --camera 0 {GALLERY}", "camera"),
        (f"edgeface run --video door.mp4 {GALLERY}", "camera"),
        ("edgeface profile mobilefacenet --report page.html", "report"),
        ("edgeface bench mobilefacenet --report page.html", "report"),
        ("edgeface gallery check known.gallery --report page.html", "report"),
        ("edgeface data prepare family/ prepared/", "data"),
        ("edgeface data fetch att new/", "data"),
        ("edgeface eval mobilefacenet --data family/", "data"),
        ("edgeface train family/", "train"),
        ("edgeface export run/ --data family/", "export"),
        ("edgeface inspect --compare mobilefacenet.tflite mobilefacenet.onnx", "export"),
        ("edgeface demo", "demo"),
    ],
)
def test_the_smallest_extra_that_helps_is_named(bare: Any, command: str, extra: str):
    said = bare.run(command, code=2).stderr
    assert said.count("\n") == 1, said
    assert said.endswith(f"; it comes with: pip install 'edgeface[{extra}]'\n")
