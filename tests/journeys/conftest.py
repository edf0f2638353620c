"""A board as its owner has it: a home folder, and in it the environment ``~/edgeface`` that docs/pi.md makes.

``scripts/bare_wheel.py`` makes both from the built wheel. Commands run there with an environment of their own, so that
they see the wheel and nothing of this checkout; the tests themselves run on the workstation.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from edgeface.data.att import att_folder

ROOT = Path(__file__).parents[2]
HOME = os.environ.get("EDGEFACE_JOURNEYS")
# Of the workstation's environment: how pip reaches packages.
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class Device:
    """Commands run in ``here``, as typed into bash."""

    home: Path
    here: Path

    @property
    def environ(self) -> dict[str, str]:
        """Nothing of ours but the way to packages; the environment ``~/edgeface`` is activated."""
        cache = os.environ.get("PIP_CACHE_DIR", str(Path("~/.cache/pip").expanduser()))
        passed = {name: os.environ[name] for name in os.environ if name.startswith("PIP_") or name.lower() in PASSED_ON}
        path = f"{self.home}/edgeface/bin:{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin"
        return passed | {"PIP_CACHE_DIR": cache, "HOME": str(self.home), "PATH": path, "LANG": "C.UTF-8"}

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """A command, at the head of a session of its own."""
        return subprocess.Popen(["bash", "-c", command], cwd=self.here, env=self.environ, start_new_session=True)

    def run(self, command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command to its end, which must be ``code``, and without a traceback."""
        words = ["bash", "-c", command]
        done = subprocess.run(words, cwd=self.here, env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def has(self, package: str) -> bool:
        """Whether Python there finds a package."""
        find = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
        return subprocess.run([f"{self.home}/edgeface/bin/python", "-c", find], check=False).returncode == 0


PEOPLE = {"Ada": 8, "Ben": 2, "Cleo": 3, "Dan": 4, "Eve": 5}
"""Names, and whose photos of the AT&T faces stand for them."""
STRANGERS = range(11, 26)

_SSHD = Path("/usr/sbin/sshd")
# A session is the board's owner logged in: that home, and that Python first.
_SSHD_CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
AuthenticationMethods publickey
UsePAM no
StrictModes no
PermitRootLogin yes
ForceCommand export HOME={home} PATH={home}/edgeface/bin:$PATH; cd; exec sh -c "$SSH_ORIGINAL_COMMAND"
"""


def lay(path: Path, person: int, take: int) -> None:
    """An AT&T photo, twice as large, as a file of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(att_folder() / f"s{person}" / f"{take}.pgm") as photo:
        photo.resize((184, 224), Image.Resampling.BICUBIC).save(path, quality=95)


@pytest.fixture(scope="session")
def belongings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: a family's photos, photos of a door, a video, a model file, the examples.

    ``photos`` has three others of each of the family, ``Ada-6.jpg``, and one each of 15 strangers, ``stranger-11.jpg``;
    ``visitors`` has the strangers alone.
    """
    folder = tmp_path_factory.mktemp("belongings")
    for name, person in PEOPLE.items():
        for take in range(1, 6):
            lay(folder / "family" / name / f"{take}.jpg", person, take)
        for take in (6, 7, 8):
            lay(folder / "photos" / f"{name}-{take}.jpg", person, take)
    for person in STRANGERS:
        lay(folder / "photos" / f"stranger-{person}.jpg", person, 1)
        lay(folder / "visitors" / f"{person}.jpg", person, 1)
    for take, name in enumerate(("ada", "ada1", "ada2", "door", "passport", "selfie", "photo"), 4):
        lay(folder / f"{name}.jpg", PEOPLE["Ada"], take)
    with Image.open(folder / "ada.jpg") as ada, Image.open(folder / "photos" / "stranger-14.jpg") as stranger:
        party = Image.new("L", (400, 240), 90)
        party.paste(ada, (8, 8))
        party.paste(stranger, (208, 8))
        party.save(folder / "party.jpg", quality=95)
    shutil.copy(ROOT / "runtime/edgeface_runtime/models/mobilefacenet.int8.tflite", folder / "net.int8.tflite")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("vendor", "__pycache__"))
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("images"))
    for file in (ROOT / "README.md", Path(__file__).with_name("follow.py")):
        shutil.copy(file, folder)
    _film(folder / "door.mp4")
    return folder


def _film(path: Path) -> None:
    """Ten frames a second: Ada for two, nobody for one and a half, a stranger for two."""
    import cv2
    import numpy as np

    lay(path.with_suffix(".png"), STRANGERS[3], 1)
    ada, stranger = cv2.imread(str(path.with_name("door.jpg"))), cv2.imread(str(path.with_suffix(".png")))
    path.with_suffix(".png").unlink()
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
    for face, count in ((ada, 20), (None, 15), (stranger, 20)):
        for step in range(count):
            frame = np.full((240, 320, 3), 90, np.uint8)
            if face is not None:
                frame[8:232, 60 + step : 244 + step] = face
            film.write(frame)
    film.release()


@pytest.fixture(scope="session")
def board() -> Device:
    """The board, in its home."""
    if not HOME:
        pytest.skip("journeys need a fresh environment: python scripts/bare_wheel.py")
    return Device(Path(HOME), Path(HOME))


@pytest.fixture(scope="session")
def known(board: Device, belongings: Path) -> Path:
    """The belongings, and with them ``known.gallery``, in which the family is enrolled."""
    replace(board, here=belongings).run("edgeface enroll family/ --gallery known.gallery")
    return belongings


@pytest.fixture
def device(board: Device, known: Path, tmp_path: Path) -> Device:
    """The board, in a folder of its own with the belongings."""
    shutil.copytree(known, tmp_path, dirs_exist_ok=True)
    return replace(board, here=tmp_path)


@pytest.fixture
def bare(device: Device) -> Device:
    """The same, while no extra is installed."""
    assert not any(map(device.has, ("cv2", "uvicorn", "jinja2", "usearch")))
    return device


@pytest.fixture(scope="session")
def ssh(board: Device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The options that let ``edgeface … --host`` reach the board at 127.0.0.1 by ssh."""
    if not _SSHD.exists() or shutil.which("ssh-keygen") is None:
        pytest.skip("no sshd: apt-get install openssh-server openssh-client")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = _SSHD_CONFIGURATION.format(port=port, folder=folder, home=board.home)
    (folder / "sshd_config").write_text(configuration)
    key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen([_SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log) as daemon,
    ):
        try:
            wait_for(port, daemon, folder / "log")
            options = (f"Port={port}", f"IdentityFile={folder}/user", f"UserKnownHostsFile={folder}/known")
            told = " ".join(f"--ssh-option {option}" for option in (*options, "IdentitiesOnly=yes"))
            yield f"--host {getpass.getuser()}@127.0.0.1 {told}"
        finally:
            daemon.terminate()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a server listens."""
    for _ in range(200):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"nobody answers at port {port}: {log.read_text()}")
