"""The blocks of README and docs, followed in order as a reader would."""

from __future__ import annotations

import collections
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLLOW = runpy.run_path(str(Path(__file__).with_name("follow.py")))
# How many blocks of a page need what: broker (of MQTT), camera, picamera (the camera module), container (podman), board
# (a Raspberry Pi and a way to it), checkout (of the repository), workstation (the extras train, export and report);
# "" needs the wheel alone, or an extra that the page itself installs.
BLOCKS = {
    "README.md": {"checkout": 2, "": 2},
    "docs/bench.md": {"workstation": 1},
    "docs/data.md": {"workstation": 1},
    "docs/detectors.md": {"": 3},
    "docs/export.md": {"": 1, "workstation": 1},
    "docs/gallery.md": {"": 13},
    "docs/group.md": {"": 1},
    "docs/home-assistant.md": {"broker": 2, "camera": 1},
    "docs/models.md": {"": 1},
    "docs/pi.md": {"board": 4, "": 7, "camera": 1},
    "docs/privacy.md": {"": 4},
    "docs/streams.md": {"": 4, "board": 1, "camera": 2, "picamera": 1},
    "docs/training.md": {"workstation": 1},
    "docs/your-board.md": {"board": 2},
    "examples/container/README.md": {"container": 2},
    "examples/service/README.md": {"": 2},  # test_examples follows it
}
FOLLOWED = [page for page, needs in BLOCKS.items() if "" in needs and not page.startswith("examples")]
# What the blocks say, at the least.
SAID = {
    "docs/gallery.md": ["mistakes: none", "unknown people score"],
    "README.md": ["Ada 0.", "True"],
    "docs/group.md": ["group 1", "Ada", "groups.html shows them"],
    "docs/models.md": ["same person", "Ada"],
    "docs/pi.md": ["mobilefacenet.int8.tflite", "Ada", "estimated"],
    "docs/streams.md": ["named: Ada", "named Ada"],
}
PICAMERA = '''
from PIL import Image
import numpy as np


class Picamera2:
    """Shows Ada for ten frames; then the user ends it."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.running = False

    def create_video_configuration(self, main, queue):
        return main

    def configure(self, main):
        with Image.open("door.jpg") as face:
            scene = Image.new("RGB", main["size"])
            scene.paste(face, (200, 100))
        self.pixels = np.array(scene)
        self.left = 10

    def start(self):
        self.running = True

    def capture_array(self):
        assert self.running
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.pixels
'''


def test_each_block_that_asks_for_more_is_counted():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    found = {}
    for page in pages:
        blocks = FOLLOW["blocks"](page)
        text = page.read_text(encoding="utf-8")
        assert len(blocks) == len(re.findall(r"^ *```(?:python|sh|bash|console)", text, re.MULTILINE)), page
        assert text.count("<!-- needs:") == sum(bool(block["needs"]) for block in blocks), page
        if blocks:
            found[page.relative_to(ROOT).as_posix()] = dict(collections.Counter(block["needs"] for block in blocks))
    assert found == BLOCKS


def test_pages_for_a_device_have_no_command_outside_a_block_that_is_followed():
    command = re.compile(r"^(?: {4}|```\n)(?:edgeface|pip|python|\S*/bin/\w+) [^\n]*", re.MULTILINE)
    for page in FOLLOWED:
        if page not in ("docs/export.md",):  # a workstation's page, where one block serves everybody
            assert not command.findall((ROOT / page).read_text(encoding="utf-8")), page


@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_s_blocks_run_as_they_stand(device: Any, page: str):
    device.run(f"mkdir -p dist && cp {device.home}/*.whl .")
    if page in ("docs/privacy.md", "docs/models.md", "docs/streams.md"):  # their reader has one already
        device.run("cp known.gallery people.gallery")
    done = device.run(f"python follow.py {page}")
    for words in SAID.get(page, ()):
        assert words in done.stdout


def test_a_program_takes_the_frames_of_the_camera_module(device: Any):
    device.run("cp known.gallery people.gallery")
    (device.here / "picamera2.py").write_text(PICAMERA)
    done = device.run("python follow.py docs/streams.md --needs picamera", code=130)
    assert done.stdout.splitlines() == ["appeared unknown", "named Ada"]
