"""Model files measured on a board over ssh: what is needed is sent, a job runs there on its own, its results come back.

Everything lies in one folder there, ``~/.cache/edgeface/bench-<key>``, and goes with it. The key follows from what is
sent, so that the same command, given again after a lost connection, picks up the run that it had started.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from edgeface_devices.bench.answers import embed_here, faces_for
from edgeface_devices.bench.process import death
from edgeface_devices.boards.health import BoardState, Conditions
from edgeface_devices.boards.profiles import BoardProfile, profile_of
from edgeface_devices.figures import Table, shown
from edgeface_devices.measurement import Embeddings, Faces, Measurement, compare_embeddings, names
from edgeface_devices.remote.job import Job
from edgeface_devices.remote.ssh import Connection, ConnectionLostError, connect, persistently
from edgeface_devices.results import Device, Results, answers, ratios
from edgeface_devices.way import Setting
from edgeface_devices.wheel import requirements, write_wheel
from edgeface_runtime import ModelError, UsageError, read_contract
from edgeface_runtime.checks import parse_json
from edgeface_runtime.files import temporary_folder
from edgeface_runtime.metadata import graph_formats

PATIENCE_S = 120.0
"""Seconds for which a lost connection is tried again."""
DEFAULT_PYTHON = "python3"
_MACHINES = ("aarch64", "x86_64")
_LEAST_PYTHON = (3, 11)
_MODULES = {"onnx": "onnxruntime", "tflite": "ai_edge_litert", "ncnn": "ncnn"}
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine that was looked at and serves."""

    connection: Connection
    python: str
    folder: str
    """The job's, there."""
    job: str
    """``none``, ``running`` or ``finished``."""
    facts: dict[str, str]
    """``model``, ``machine``, ``mhz`` and what else it said."""


def measure(
    host: str,
    paths: Sequence[Path],
    *,
    say: Say,
    board: BoardProfile | None = None,
    threads: int = 1,
    calls: int = 200,
    faces: Faces | None = None,
    sustained_min: float = 0,
    photo: Sequence[Setting] = (),
    allow_throttled: bool = False,
    options: Sequence[str] = (),
    python: str = DEFAULT_PYTHON,
) -> Results:
    """Benches model files on a machine over ssh, each in a fresh process there.

    Args:
        host: as ssh takes it.
        paths: ONNX and TFLite files, each with its contract.
        say: takes one line of progress.
        board: what the machine must be; None: whatever it turns out to be.
        threads: of one call.
        calls: timed calls of each file.
        faces: (N, S, S, 3) uint8 RGB to embed there and here; None: the golden probe images.
        sustained_min: minutes during which the measurement is repeated; the rows are those of the last repetition.
        photo: detectors with which the whole way from a photo to names is measured too, for each drawn scene.
        allow_throttled: give the numbers of a board that was held back all the same.
        options: more options for ssh -o.
        python: the Python there; where it lacks the engines they are installed in a virtual environment beside the job.

    Raises:
        ConnectionLostError: the connection was lost and did not come back; says where the run stood.
        ModelError: a file is no model, or its process died there; names the file and the cause.
        UsageError: the machine cannot be reached, refuses us, or does not serve; says why and what to do.
    """
    if not paths:
        raise UsageError("no model file given")
    names = tuple(str(path) for path in paths)
    job = Job(
        models=names,
        threads=threads,
        calls=calls,
        sustained_min=sustained_min,
        has_faces=faces is not None,
        photo=tuple(photo),
    )
    modules = sorted({_MODULES[kind] for path in paths for kind in graph_formats(path)})
    contracts = [read_contract(path) for path in paths]
    load = _pack(job, paths, faces)
    key = hashlib.sha256(load).hexdigest()[:16]
    with connect(host, options) as connection:
        found = look(connection, python, f"bench-{key}", modules, board)
        try:
            results, embeddings = _carry_out(found, load, say, len(paths))
        except KeyboardInterrupt:
            say(f"stopping the run on {host}")
            _clean(found)
            raise
    if results.state and results.state.throttled and not allow_throttled:
        raise UsageError(
            f"{host}: held back while it was measured ({', '.join(results.state.throttled)}): cool it, or give it a "
            "better power supply; --allow-throttled shows the numbers all the same"
        )
    rows = []
    for path, contract, row, there in zip(paths, contracts, results.rows, embeddings, strict=True):
        here, version = embed_here(path, faces_for(contract.input.size, faces), threads=threads)
        agreement = compare_embeddings(here, there, engine_version_here=version)
        rows.append(
            replace(row, path=path, contract=contract, agreement=agreement, embeddings=there, embeddings_here=here)
        )
    return replace(results, device=_device(results.device, found), rows=tuple(rows), ratios=ratios(rows))


def look(connection: Connection, python: str, name: str, engines: Sequence[str], board: BoardProfile | None) -> Host:
    """Looks at the machine and makes sure that Python, and engines to run with it, are there.

    Raises:
        UsageError: it is of a kind that has no engines, its Python is missing or too old, or it is another board.
    """
    done = connection.run(_LOOK.format(python=shlex.quote(python), name=name))
    facts = dict(line.split("=", 1) for line in done.stdout.decode(errors="replace").splitlines() if "=" in line)
    host = connection.host
    if "machine" not in facts:
        raise UsageError(f"{host}: no shell answers there: {_last_line(done.stderr) or 'it said nothing'}")
    if facts["bits"] != "64":
        raise UsageError(f"{host}: a 32-bit system; the engines need the 64-bit Raspberry Pi OS")
    if facts["machine"] not in _MACHINES:
        raise UsageError(f"{host}: is {facts['machine']}; engines exist for {' and '.join(_MACHINES)}")
    if "python" not in facts:
        raise UsageError(f"{host}: no Python is called {python} there: install python3, or name it by --host-python")
    if tuple(map(int, facts["python"].split("."))) < _LEAST_PYTHON:
        raise UsageError(f"{host}: Python {facts['python']}; edgeface needs 3.11 or newer there (--host-python)")
    actual = _profile(facts)
    if board is not None and not facts.get("emulated") and (actual is None or actual.board != board.board):
        raise UsageError(f"{host}: is a {facts['model'] or facts['machine']}, not a {board.board}: --device rpi")
    folder, job = f"{facts['base']}/{name}", facts.get("job", "none")
    found = Host(connection=connection, python=facts["use"], folder=folder, job=job, facts=facts)
    absent = [engine for engine in ("numpy", *engines) if engine not in facts["packages"].split()]
    return _with_packages(found, absent, python) if absent else found


def _carry_out(host: Host, load: bytes, say: Say, files: int) -> tuple[Results, list[Embeddings]]:
    """Starts the job or joins it, follows it, and brings its results back."""
    name, told = host.connection.host, list[str]()

    def take(line: str) -> None:
        told.append(line)
        say(f"{name}: {line}")

    if host.job != "none":
        say(f"{name}: joining the run that an earlier command left {host.job}")
    try:
        if host.job == "none":
            persistently(lambda: _start(host, load), say, patience_s=PATIENCE_S)
        persistently(lambda: host.connection.follow(_follow(host, len(told)), take), say, patience_s=PATIENCE_S)
        fetch = f"cd {shlex.quote(host.folder)} && tar -c -f - $(ls exit log result.json embeddings-*.npy 2>/dev/null)"
        done = persistently(lambda: host.connection.run(fetch), say, patience_s=PATIENCE_S)
        persistently(lambda: _clean(host), say, patience_s=PATIENCE_S)
    except ConnectionLostError as error:
        raise ConnectionLostError(
            f"{error}; the run there stood at: {_last(told)}; it goes on, and the same command picks it up"
        ) from error
    return _results(name, _members(done.stdout), files, _last(told))


def _results(host: str, members: dict[str, bytes], files: int, stood: str) -> tuple[Results, list[Embeddings]]:
    if "result.json" not in members:
        code = int(members.get("exit", b"0"))
        if code > 128:
            raise ModelError(f"{host}: the run there was {death(code - 128)} ({stood})")
        said = _last_line(members.get("log", b""))
        full = "its disk is full: " if "No space left" in said else ""
        raise ModelError(f"{host}: the run there ended without a result ({stood}): {full}{said or 'did it restart?'}")
    document = parse_json(members["result.json"].decode())
    if isinstance(document, dict) and "error" in document:
        raise ModelError(f"{host}: {document['error']}")
    arrays = [np.load(io.BytesIO(members[f"embeddings-{number}.npy"])) for number in range(files)]
    return Results.from_json(document), arrays


def _with_packages(host: Host, absent: Sequence[str], python: str) -> Host:
    """The machine with a virtual environment of our own in which the engines are."""
    name = host.connection.host
    if python != DEFAULT_PYTHON:
        raise UsageError(f"{name}: {python} lacks {', '.join(absent)}: install edgeface with it there")
    folder = f"{host.facts['base']}/venv"
    packages = " ".join(shlex.quote(package) for package in [*requirements(), *(["ncnn"] if "ncnn" in absent else [])])
    done = host.connection.run(_MAKE_VENV.format(folder=shlex.quote(folder), packages=packages))
    if done.returncode:
        raise UsageError(
            f"{name}: {', '.join(absent)} are not there and cannot be installed: {_last_line(done.stderr)}; "
            "install them by hand (python3-venv, pip), and name that Python by --host-python"
        )
    return replace(host, python=f"{folder}/bin/python")


def _start(host: Host, load: bytes) -> None:
    words = {"folder": shlex.quote(host.folder), "python": shlex.quote(host.python)}
    done = host.connection.run(_START.format(**words), load)
    if done.returncode:
        name, said = host.connection.host, _last_line(done.stderr)
        if "No space left" in done.stderr.decode(errors="replace"):
            _clean(host)
            said = f"its disk is full; {3 * len(load) / 1e6:.0f} MB are needed there"
        raise UsageError(f"{name}: {host.folder} cannot be written: {said}")


def _follow(host: Host, told: int) -> str:
    folder = shlex.quote(host.folder)
    return f"cd {folder} && exec tail -n +{told + 1} -f --pid=$(cat pid) progress"


def _clean(host: Host) -> None:
    """Ends the job where it still runs, and removes its folder."""
    host.connection.run(_CLEAN.format(folder=shlex.quote(host.folder)))


def _pack(job: Job, paths: Sequence[Path], faces: Faces | None) -> bytes:
    """A tar of the job and all that it needs; the same job gives the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive, temporary_folder() as scratch:
        files = [(f"models/{number}", path.read_bytes()) for number, path in enumerate(paths)]
        files += [("edgeface.whl", write_wheel(Path(scratch)).read_bytes())]
        files += [("job.json", json.dumps(asdict(job)).encode())]
        if faces is not None:
            array = io.BytesIO()
            np.save(array, faces)
            files += [("faces.npy", array.getvalue())]
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    """The files of a tar, in memory: nothing that a board sends is written anywhere."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = [(entry.name, archive.extractfile(entry)) for entry in archive.getmembers()]
            return {name: file.read() for name, file in files if file is not None}
    except tarfile.TarError:
        return {}


def _device(device: Device, host: Host) -> Device:
    profile, known = _profile(host.facts), replace(device, host=host.connection.host, model=host.facts["model"])
    return (
        replace(known, name=profile.board, profile=profile.name) if profile and device.source == "measured" else known
    )


def _profile(facts: dict[str, str]) -> BoardProfile | None:
    return profile_of(facts["model"], int(facts["mhz"]) // 1000 if facts["mhz"] else None)


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else "its start"


def _last_line(said: bytes) -> str:
    return _last(said.decode(errors="replace").strip().splitlines() or [""])


_LOOK = """
echo "machine=$(uname -m)"
echo "bits=$(getconf LONG_BIT)"
echo "model=$(tr -d '\\000' 2>/dev/null < /proc/device-tree/model)"
echo "mhz=$(cat /sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq 2>/dev/null)"
[ ! -e /etc/edgeface-emulated ] || echo emulated=yes
base=${{XDG_CACHE_HOME:-$HOME/.cache}}/edgeface
echo "base=$base"
find "$base" -maxdepth 1 -name 'bench-*' -mtime +0 -exec rm -rf {{}} + 2>/dev/null
cd "$base/{name}" 2>/dev/null && if [ -e result.json ]; then echo job=finished
elif kill -0 "$(cat pid)" 2>/dev/null; then echo job=running; fi
python={python}
[ "$python" != python3 ] || [ ! -x "$base/venv/bin/python" ] || python=$base/venv/bin/python
echo "use=$python"
cd / && "$python" -c 'import sys, importlib.util
print("python=%d.%d" % sys.version_info[:2])
names = "numpy", "onnxruntime", "ai_edge_litert", "ncnn"
print("packages=" + " ".join(name for name in names if importlib.util.find_spec(name)))'
"""

_START = """
set -eu
folder={folder}
[ ! -e "$folder/pid" ] || ! kill -0 "$(cat "$folder/pid")" 2>/dev/null || exit 0
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"
tar -x -f -
{python} -m zipfile -e edgeface.whl lib
touch progress
export PYTHONPATH="$folder/lib"
setsid sh -c '"$0" -P -m edgeface_devices.remote.job "$1" >> log 2>&1; echo $? > exit' {python} "$folder" \
    < /dev/null > /dev/null 2>&1 &
echo $! > pid
"""

_CLEAN = """
cd {folder} 2>/dev/null || exit 0
[ -e exit ] || kill -- "-$(cat pid)" 2>/dev/null
cd / && rm -rf {folder}
"""

_MAKE_VENV = """
[ -x {folder}/bin/python ] || python3 -m venv --system-site-packages {folder} || {{ rm -rf {folder}; exit 1; }}
{folder}/bin/python -m pip install --quiet --disable-pip-version-check {packages}
"""


def remote_table(rows: Sequence[Measurement]) -> Table:
    """Files that ran on another machine: times in ms and peak in MB, beside their answers on this one."""
    columns = ["file", "p50", "p90", "first", "peak", "top-1", "against here"]
    named = names(rows)
    times = [map(shown, (row.p50_ms, row.p90_ms, row.first_ms, row.peak)) for row in rows]
    return columns, [[named[row.path], *cells, *answers(row)] for row, cells in zip(rows, times, strict=True)]


def conditions_table(state: Conditions) -> Table:
    """Clock, heat and power before and after."""
    columns = ["the board", "MHz", "°C", "governor", "throttled"]
    cells = []
    for when, reading in (("before", state.before), ("after", state.after)):
        throttled = reading.to_json()["throttled"]
        cells.append([when, *_reading(reading), reading.governor or "–", "–" if throttled is None else str(throttled)])
    return columns, cells


def sustained_table(results: Results) -> Table:
    """Each repetition's median of each file, then how much the last differs from the first."""
    named, repetitions = names(results.rows), results.sustained
    cells = [[f"{at.minutes:.1f}", *(f"{ms:.2f}" for ms in at.medians_ms), *_reading(at.state)] for at in repetitions]
    ends = zip(repetitions[0].medians_ms, repetitions[-1].medians_ms, strict=True)
    drift = [f"{100 * (last / first - 1):+.1f} %" for first, last in ends]
    columns = ["minute", *(named[row.path] for row in results.rows), "MHz", "°C"]
    return columns, [*cells, ["drift", *drift, "", ""]]


def _reading(state: BoardState) -> list[str]:
    return ["–" if number is None else str(number) for number in (state.mhz, state.celsius)]
