"""The examples are started as their pages say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from typing import Any

import pytest


def test_identify_names_faces_and_goes_on_after_a_photo_that_is_refused(bare: Any):
    (bare.here / "family" / "Ada" / "0.jpg").write_text("no photo")
    done = bare.run("python examples/identify.py family photos/Ben-6.jpg")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["Ben"]
    assert "0.jpg" in done.stderr
    assert bare.run("python examples/identify.py family photos/stranger-11.jpg").stdout.startswith("unknown")


def test_the_doorbell_greets(bare: Any):
    done = bare.run("python examples/doorbell.py known.gallery --folder photos --once")
    said = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()]
    assert said[:3] == ["hello, Ada"] * 3
    assert said.count("somebody is at the door") == len((bare.here / "strangers.log").read_text().splitlines()) == 15
    done = bare.run("python examples/doorbell.py known.gallery --camera 0", code=2)
    assert done.stderr.endswith("pip install 'edgeface[camera]'\n")


def test_the_service_names_its_extra_and_answers_its_page_s_requests(bare: Any):
    """Its page's own lines, from the installation to the last request."""
    for program in ("curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install {program}")
    refused = bare.run("python examples/service/app.py mobilefacenet people.gallery", code=2).stderr
    assert refused.count("\n") == 1
    assert refused.endswith("pip install 'edgeface[web]'\n")

    folder = bare.here / "examples" / "service"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    page = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(page.replace("8000", port), encoding="utf-8")
    for name in ("ada", "door", "passport", "selfie"):
        shutil.copy(bare.here / f"{name}.jpg", folder)
    # Output goes to files, for the service keeps it open until it is ended with the shell that started it.
    follow = bare.start("cd examples/service && exec python ../../follow.py README.md > ../../out 2> ../../err")
    try:
        assert follow.wait(timeout=120) == 0, (bare.here / "err").read_text()
    finally:
        os.killpg(follow.pid, signal.SIGTERM)
        follow.communicate()
    enrolled, found, match, people, removed = documents((bare.here / "out").read_text())
    assert enrolled["name"] == "Ada"
    assert [(face["name"], face["far"]) for face in found] == [("Ada", 0.01)]
    assert (match["same"], match["far"]) == (True, 0.001)
    assert [photo["name"] for photo in people] == ["Ada"]
    assert removed == {"removed": 1}


def documents(text: str) -> list[Any]:
    """JSON documents that stand one behind the other, after what pip said."""
    found, at = [], text.index("{")
    while at < len(text):
        document, at = json.JSONDecoder().raw_decode(text, at)
        found.append(document)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found
