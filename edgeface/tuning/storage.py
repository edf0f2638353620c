"""Where a search keeps what it has tried: an SQLite file, or whatever Optuna can share between machines."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from edgeface_runtime import UsageError

CARD = "edgeface"
"""The attribute of a study that holds what is searched, on which photos, by which figure."""
JOURNALS = (".journal", ".log")
"""Endings of files that become journals."""
_PATIENCE = 20
"""Seconds to wait for others who write to the same SQLite file."""
_PROBE = 2
"""Seconds until a file that somebody else holds from the start is given up."""


@dataclass(frozen=True)
class OpenedStorage:
    """An opened storage, and how it is spoken of: a password in a URL is never shown."""

    storage: BaseStorage
    title: str

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Tells an error of the storage in one line."""
        with _told(self.title):
            yield


def open_store(place: str) -> OpenedStorage:
    """Opens a storage, or makes it.

    Args:
        place: an SQLite file, a journal (its name ends in ``.journal`` or ``.log``), or a URL as SQLAlchemy takes it.

    Raises:
        UsageError: a file that is no storage of Optuna, or held by another program; a URL that nothing answers.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" not in place:
        file = Path(place)
        if not file.parent.is_dir():
            raise UsageError(f"{file}: its folder does not exist")
        if file.suffix in JOURNALS:
            _check_journal(file)
            try:
                return OpenedStorage(JournalStorage(JournalFileBackend(str(file))), place)
            except (ValueError, KeyError) as error:
                raise UsageError(f"{file}: a damaged journal ({_first_line(error)}); name another --storage") from error
        return _open_url(f"sqlite:///{file.absolute()}", place)
    try:
        return _open_url(place, make_url(place).render_as_string(hide_password=True))
    except ArgumentError as error:
        raise UsageError(f"--storage: {_first_line(error)}; write a file, or a URL such as postgresql://…") from error


def open_study(store: OpenedStorage, name: str, card: Mapping[str, object], *, maximize: bool, is_own: bool) -> Study:
    """The study of that name, begun where there is none.

    Args:
        store: where it lies.
        name: of the study.
        card: what is searched, on what, by what; a study that was begun with another one is refused.
        maximize: a higher value is the better one.
        is_own: the storage is this search's alone, so that a study of another name is not expected there.

    Raises:
        UsageError: it searches something else, or the storage is another search's.
    """
    names = optuna.get_all_study_names(store.storage)
    if is_own and names and name not in names:
        raise UsageError(f"{store.title}: holds the study {names[0]!r}, not {name!r}: --study {names[0]}")
    direction = "maximize" if maximize else "minimize"
    study = optuna.create_study(storage=store.storage, study_name=name, direction=direction, load_if_exists=True)
    known = study.user_attrs.get(CARD)
    if known is None and study.get_trials(deepcopy=False):
        raise UsageError(f"{store.title}: the study {name!r} is not of edgeface tune; name another with --study")
    if known is None:
        study.set_user_attr(CARD, card)
        return study
    ours = json.loads(json.dumps(card))
    for part in ours.keys() | known.keys():
        if (mine := ours.get(part)) != (theirs := known.get(part)):
            raise UsageError(
                f"{store.title}: the study {name!r} was begun otherwise ({part}{_difference(mine, theirs)}); "
                "go on as it was begun, or name another --output or --study"
            )
    return study


def _difference(mine: object, theirs: object) -> str:
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return ""
    keys = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
    return f": {', '.join(sorted(keys))}"


def _open_url(url: str, title: str) -> OpenedStorage:
    arguments = {}
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        _check_sqlite(Path(parsed.database))
        arguments = {"connect_args": {"timeout": _PATIENCE}}
    try:
        with _told(title):
            return OpenedStorage(get_storage(RDBStorage(url, engine_kwargs=arguments)), title)
    except (ImportError, RuntimeError) as error:  # no driver of a database; tables of another version of Optuna
        raise UsageError(f"{title}: {_first_line(error)}") from error


def _check_sqlite(file: Path) -> None:
    """Optuna would add its tables to any SQLite file, and wait for long where another program holds it."""
    if not file.exists() or not file.stat().st_size:
        return
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", timeout=_PROBE, uri=True)
        ) as base:
            tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not {"studies", "trials", "version_info"} <= tables:
                some = ", ".join(sorted(tables)[:3])
                raise UsageError(
                    f"{file}: an SQLite file of something else (its tables: {some}); name another --storage"
                )
            base.execute("BEGIN IMMEDIATE")
            base.execute("ROLLBACK")
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise UsageError(
                f"{file}: another program holds it (database is locked); wait for it or stop it"
            ) from error
        raise UsageError(f"{file}: cannot be used as storage: {error}; name another --storage") from error


def _check_journal(file: Path) -> None:
    """Optuna would append to any file."""
    if not file.exists():
        return
    try:
        with file.open("rb") as lines:
            first = lines.readline()
        if not first or "op_code" in json.loads(first):
            return
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    except (ValueError, TypeError):
        pass
    raise UsageError(f"{file}: exists and is no journal of Optuna; name another --storage")


@contextlib.contextmanager
def _told(title: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = _first_line(error.__cause__ or error)
        raise UsageError(f"{title}: {reason}; what has ended is kept, and the same command goes on") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:300]
