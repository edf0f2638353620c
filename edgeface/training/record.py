"""``run.json`` read again: what a run was made with and from, for those who resume it, show it or compare it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NotRequired, TypedDict

from edgeface.data.dataset import UNKNOWN
from edgeface.progress import SILENT, Reporter
from edgeface.training.config import TrainConfig, config_from
from edgeface_runtime import UsageError
from edgeface_runtime.checks import Count, read_document, shown

RECORD = "run.json"


@dataclass(frozen=True, kw_only=True)
class Command:
    """What ``edgeface train`` was given beside settings."""

    data: Path | None = None
    init: str | None = None
    init_names: str | None = None
    teacher: list[Path] = field(default_factory=list)
    teacher_contract: list[Path] = field(default_factory=list)
    guide: Path | None = None
    unlabeled: Path | None = None
    licence: str | None = None
    tensorboard: bool = False

    def document(self) -> dict[str, object]:
        """As JSON values: what is a file or a folder as an absolute path, so that it is found from anywhere."""
        return {name: _absolute(value) for name, value in asdict(self).items()}


class Photos(TypedDict):
    """What a run learnt from."""

    sha256: str
    licence: str
    identities: list[str]
    photos: dict[str, Count]
    """``train``, ``val``, ``test`` → how many."""
    unlabelled: NotRequired[Count]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One source: weights to start from, a teacher, or unlabeled photos."""

    role: str
    """``init``, ``teacher``, ``guide`` or ``unlabeled``."""
    name: str
    """As it was given."""
    licence: str = UNKNOWN
    sha256: str | None = None
    """Of the file."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """``run.json``."""

    folder: Path
    config: TrainConfig
    environment: dict[str, str]
    data: Photos
    sources: list[Origin]
    command: Command | None
    """None where no command made the run, or one of an older edgeface."""


class _Document(TypedDict):
    config: dict[str, object]
    environment: NotRequired[dict[str, str]]
    data: Photos
    sources: NotRequired[list[Origin]]
    command: NotRequired[Command | None]


def read_record(folder: Path, reporter: Reporter = SILENT) -> RunRecord:
    """The record of a run folder.

    Args:
        folder: of the run.
        reporter: told of settings that have another name since.

    Raises:
        UsageError: no run, or its ``run.json`` is damaged.
    """
    path = folder / RECORD
    found = read_document(path, _Document, "run")
    return RunRecord(
        folder=folder,
        config=config_from(found["config"], shown(path), reporter),
        environment=found.get("environment", {}),
        data=found["data"],
        sources=found.get("sources", []),
        command=found.get("command"),
    )


def resumed(
    folder: Path, given: Command, reporter: Reporter = SILENT, *, begin: str = "edgeface train DATA -o {}"
) -> tuple[Path, Command, RunRecord | None]:
    """What a run was started with, for ``--resume``: each thing that is not given again is taken from its record.

    Args:
        folder: of the run, unless ``given.data`` is a run folder itself.
        given: to the command that resumes.
        reporter: told where no run is there yet.
        begin: the command that begins such a run, with ``{}`` for its folder.

    Returns:
        The run's folder, the command, and the run's record; None where no run is there and ``given`` begins one.

    Raises:
        UsageError: no run, and no photos to begin one with; its photos are not where they were.
    """
    if given.data is not None and (given.data / RECORD).exists():
        folder, given = given.data, replace(given, data=None)
    name = shown(folder)
    begin = begin.replace("{}", name)
    if not (folder / RECORD).exists():
        if given.data is None:
            raise UsageError(f"{name}: no run to resume (no {RECORD} in it); begin one: {begin}")
        if given.data.is_dir():
            reporter.say(f"{name}: no run in it yet, so this begins one")
        return folder, given, None
    record = read_record(folder, reporter)
    known = vars(record.command or Command()) | {"licence": record.data["licence"]}
    start = next((source.name for source in record.sources if source.role == "init"), None)
    if start is not None and (record.command is None or Path(start).exists()):
        known["init"] = start  # as it was given: what the contract says
    command = Command(**known | {key: value for key, value in vars(given).items() if value})
    if command.data is None or not command.data.is_dir():
        gone = f"its photos are not at {shown(command.data)}" if command.data else ""
        where = gone or f"{RECORD} does not say where its photos are"
        raise UsageError(f"{name}: {where}; name their folder: {begin} --resume")
    return folder, command, record


def _absolute(value: object) -> object:
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, str | Path):
        return shown(Path(value).absolute() if value and Path(value).exists() else value)
    return value
