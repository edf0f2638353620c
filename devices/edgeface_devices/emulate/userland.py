"""A 64-bit Raspberry Pi userland under qemu, built in the user's cache: it runs the board's wheels and kernels.

It tells whether wheels run on a core at all, what a model answers there and how many instructions it executes.
It tells nothing about time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeface_devices.boards.profiles import BoardProfile
from edgeface_devices.wheel import requirements, write_wheel
from edgeface_runtime import UsageError
from edgeface_runtime.files import temporary_folder

ENTER = Path(__file__).parent / "qemu" / "enter.sh"
_COUNTER = ENTER.with_name("icount.c")
_LAYOUT = 1
"""Grows when a root that an older edgeface built no longer serves."""
MARKER = Path("/etc/edgeface-emulated")
"""In the root: whoever measures time there must see that it is no board."""
COUNTS = Path("/emu/count")
"""What the counter has written, as a program in the emulator sees it."""
_SUITE = "bookworm"
_PYTHON = "3.11"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SITE = f"usr/local/lib/python{_PYTHON}/dist-packages"
_PLATFORMS = tuple(f"manylinux{tag}_aarch64" for tag in ("2014", "_2_17", "_2_27", "_2_28", "_2_31", "_2_34"))
# fmt: off
_PACKAGES = (
    "base-files", "bash", "dash", "coreutils", "findutils", "grep", "sed", "tar", "gzip", "procps", "hostname",
    "util-linux", "libc-bin", "ca-certificates", "python3", "python3-venv", "libstdc++6", "libgomp1",
    "openssh-sftp-server",
)
# Command → Debian package that brings it.
_COMMANDS = {"qemu-aarch64": "qemu-user", "mmdebstrap": "mmdebstrap", "unshare": "util-linux", "gcc": "gcc libc6-dev",
             "tar": "tar", "ldd": "libc-bin"}
# Core → variant, part, revision and features, as its /proc/cpuinfo says. XNNPACK and onnxruntime choose kernels by
# them; onnxruntime dies at import where it finds an x86 one.
CORES = {
    "cortex-a53": ("0x0", "0xd03", 4, "fp asimd evtstrm crc32 cpuid"),
    "cortex-a72": ("0x0", "0xd08", 3, "fp asimd evtstrm crc32 cpuid"),
    "cortex-a76": ("0x4", "0xd0b", 1, "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
                                      "lrcpc dcpop asimddp"),
}
# fmt: on

Say = Callable[[str], None]


def folder() -> Path:
    """Where the emulator lives: ``$XDG_CACHE_HOME/edgeface/emulator-1``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edgeface" / f"emulator-{_LAYOUT}"


def core_of(board: BoardProfile) -> str:
    """qemu's name of a board's core."""
    return board.core.lower()


def missing() -> str | None:
    """What this machine lacks to build and run the emulator, and how to get it; None: nothing."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"the emulator runs on 64-bit x86 Linux, not on {platform.system()} {platform.machine()}"
    absent = [package for command, package in _COMMANDS.items() if shutil.which(command) is None]
    absent += [] if _KEYRING.exists() else ["debian-archive-keyring"]
    if absent:
        return f"missing here: sudo apt-get install {' '.join(absent)}"
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    if numbers and (int(numbers[1]), int(numbers[2])) < (6, 7):
        return f"Linux 6.7 or newer is needed (binfmt_misc in a user namespace), here is {platform.release()}"
    probe = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return (
            "user namespaces are switched off: sudo sysctl kernel.unprivileged_userns_clone=1 "
            "(Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0)"
        )
    return None


def find() -> Path:
    """The root of the emulator that was built.

    Raises:
        UsageError: it was not; says how to get it.
    """
    root = folder() / "userland"
    if not root.exists():
        lacking = missing()
        raise UsageError(
            f"the emulator is not there ({folder()}); edgeface devices emulator builds it (450 MB, about a minute)"
            + (f"; {lacking}" if lacking else "")
        )
    return root


def build(say: Say) -> Path:
    """Builds the emulator where it is not there yet, and gives its root.

    Each of the steps ends by a rename, so that a build that was interrupted goes on after its last whole one.

    Args:
        say: takes one line of progress.

    Raises:
        UsageError: something is missing here, or a step failed; names it.
    """
    lacking = missing()
    if lacking:
        raise UsageError(f"the emulator cannot be built: {lacking}")
    target = folder()
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if not target.exists():
                part.mkdir(exist_ok=True)
                for number, (title, step) in enumerate(_STEPS, 1):
                    say(f"{number} of {len(_STEPS)}: {title}")
                    step(part)
                part.rename(target)
    except OSError as error:
        raise UsageError(f"{error.filename or target}: {error.strerror}") from error
    return target / "userland"


def _unpack_debian(part: Path) -> None:
    if (part / "userland").exists():
        return
    # Unpacked through tar, so that every file belongs to the user. "extract" runs no maintainer script, so
    # nothing foreign is executed.
    with _fresh(part / "userland") as root, tempfile.TemporaryFile() as complaints:
        # fmt: off
        with subprocess.Popen(
            ["mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64", "--format=tar",
             "--aptopt=APT::Install-Recommends \"false\"", f"--include={','.join(_PACKAGES)}", _SUITE, "-"],
            stdout=subprocess.PIPE, stderr=complaints,
        ) as bootstrap:
            # fmt: on
            unpacked = subprocess.run(
                ["tar", "-x", "--no-same-owner", "--exclude=./dev/*", "-C", root], stdin=bootstrap.stdout, check=False
            )
        if bootstrap.returncode or unpacked.returncode:
            complaints.seek(0)
            raise UsageError(f"mmdebstrap failed: {_last_line(complaints.read().decode(errors='replace'))}")
        for folder_ in ("emu", "mnt", "home/pi", "opt/edgeface", "proc", "sys", "dev"):
            (root / folder_).mkdir(parents=True, exist_ok=True)
        (root / "bin/sh").unlink(missing_ok=True)
        (root / "bin/sh").symlink_to("bash")
        (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/bash\npi:x:0:0:pi:/home/pi:/bin/bash\n")
        (root / "etc/group").write_text("root:x:0:\n")
        (root / "etc/hostname").write_text("raspberrypi-emulated\n")


def _unpack_wheels(part: Path) -> None:
    done = part / "wheels"
    if done.exists():
        return
    site = part / "userland" / _SITE
    shutil.rmtree(site, ignore_errors=True)
    # The engines that are installed here, so that answers are compared within one version. ncnn's own requirements
    # serve its model zoo alone.
    pins = [f"{name}=={found}" for name in ("onnxruntime", "ai-edge-litert") if (found := _installed(name))]
    ncnn = _installed("ncnn")
    for packages in ([*requirements(), *pins], *([["--no-deps", f"ncnn=={ncnn}"]] if ncnn else [])):
        # fmt: off
        command: list[str | Path] = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
            "--python-version", _PYTHON, "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none",
            *(word for tag in _PLATFORMS for word in ("--platform", tag)), "--target", site, *packages,
        ]
        # fmt: on
        _run(command, "pip cannot get the aarch64 wheels")
    done.touch()


def _add_core_files(part: Path) -> None:
    root = part / "userland"
    for core, (variant, part_number, revision, features) in CORES.items():
        text = "".join(
            f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: {variant}\nCPU part\t: {part_number}\nCPU revision\t: {revision}\n\n"
            for number in range(4)
        )
        (root / "emu" / f"cpuinfo.{core}").write_text(f"{text}Hardware\t: qemu-user emulation (no board)\n")
    qemu = shutil.which("qemu-aarch64")
    assert qemu is not None
    linked = subprocess.run(["ldd", qemu], capture_output=True, text=True, check=False).stdout
    # The x86 libraries of qemu itself lie under multi-arch paths, which no arm64 file uses.
    for library in re.findall(r"(/\S+) \(0x", linked):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    counter = root / "emu" / "icount.so"
    command: list[str | Path] = ["gcc", "-O2", "-shared", "-fPIC", "-o", counter, _COUNTER]
    _run(command, "the instruction counter does not compile")
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
    (root / MARKER.relative_to("/")).write_text(f"emulator=qemu-user\nqemu={said[0] if said else 'unknown'}\n")


def _try_out(part: Path) -> None:
    root = part / "userland"
    for core in CORES:
        if _run(inside(root, core, ["uname", "-m"]), "nothing runs in the emulator").strip() != "aarch64":
            raise UsageError(f"what runs in the emulator of {core} is no arm64 program")
    with tempfile.NamedTemporaryFile() as count:
        counted = inside(root, "cortex-a53", ["true"], count=Path(count.name))
        if subprocess.run(counted, capture_output=True, check=False).returncode:
            # QEMU 9 and newer take no plugin of this kind: everything but the counts is there.
            (root / "emu" / "icount.so").unlink()


_STEPS: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("Debian 12 for arm64 (100 MB to download)", _unpack_debian),
    ("Python wheels for aarch64 (70 MB to download)", _unpack_wheels),
    ("the cores and the instruction counter", _add_core_files),
    ("a first program on each core", _try_out),
)


def inside(
    root: Path, core: str, command: Sequence[str], *, mnt: Path | None = None, count: Path | None = None
) -> list[str]:
    """A command line for this machine that runs ``command`` in the emulator.

    Args:
        root: from ``find``.
        core: one of ``CORES``.
        command: what to run there.
        mnt: a folder to see as /mnt.
        count: an existing file for the instruction counter's lines.
    """
    settings = {"ROOT": root, "MNT": mnt or "", "COUNT": count or "", "BOARD": core}
    return ["env", *(f"EMULATED_{key}={value}" for key, value in settings.items()), "sh", str(ENTER), core, *command]


def has_counter(root: Path) -> bool:
    """Whether this machine's qemu took the instruction counter."""
    return (root / "emu" / "icount.so").exists()


def install(root: Path) -> str:
    """Installs edgeface's wheel, as it is here, in the emulator and gives its folder there, for ``PYTHONPATH``."""
    with temporary_folder() as scratch:
        wheel = write_wheel(Path(scratch))
        name = hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
        target = root / "opt/edgeface" / name
        try:
            if not target.exists():
                with _fresh(target) as beside, zipfile.ZipFile(wheel) as archive:
                    archive.extractall(beside)
        except OSError as error:
            if not target.exists():  # another process was not the faster one
                raise UsageError(f"{target}: {error.strerror}") from error
    return f"/opt/edgeface/{name}"


@contextlib.contextmanager
def _fresh(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that is renamed to it when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(target.parent, target.name) as folder:
        beside = Path(folder) / target.name
        beside.mkdir()
        beside.chmod(0o755)
        yield beside
        beside.rename(target)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], failure: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{failure}: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    return next(iter(reversed(text.strip().splitlines())), "no reason given")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
