"""Opens a gallery's file that is encrypted at rest by SQLCipher (docs/privacy.md, "Encryption").

SQLCipher encrypts each page (AES-256-CBC, HMAC-SHA512) and the journal, so that all else works as on a plain file.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import cast

from edgeface_runtime.errors import GalleryError, MissingExtraError, UsageError
from edgeface_runtime.images import shown

KEY = "EDGEFACE_GALLERY_KEY"
"""Environment variable that holds the key."""
KEY_FILE = f"{KEY}_FILE"
"""Environment variable that names the file whose first line is the key."""
PAGE = 8192
"""Bytes: three embeddings of 512 floats a page; in a page of SQLite's usual 4096 there is room for one."""
WAIT = 30.0
"""Seconds to wait for another process to finish writing."""


def read_key() -> str | None:
    """What the environment gives; None where it gives nothing.

    Raises:
        UsageError: the key's file cannot be read.
    """
    file, key = os.environ.get(KEY_FILE), os.environ.get(KEY)
    if file:
        try:
            with Path(file).open(encoding="utf-8") as opened:  # also a pipe, as shells make one of a command's output
                key = next(iter(opened.read(10_000).splitlines()), "")
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else "not text"
            raise UsageError(f"{KEY_FILE}={file}: {said}") from error
        if not key:
            raise UsageError(f"{KEY_FILE}={file}: its first line is empty; a key stands there")
    return key or None


def open_encrypted(path: Path, key: str) -> sqlite3.Connection:
    """Opens an encrypted file, or a new one, which is empty.

    Raises:
        GalleryError: it is not encrypted with the key.
        MissingExtraError: SQLCipher is absent.
    """
    try:
        from sqlcipher3 import dbapi2
    except ModuleNotFoundError as error:
        raise MissingExtraError("sqlcipher3", "encrypted") from error
    db = cast(
        sqlite3.Connection, dbapi2.connect(str(path), timeout=WAIT, isolation_level=None, check_same_thread=False)
    )
    try:
        db.execute("PRAGMA cipher_log_level = NONE")  # a wrong key is told on stderr else
        # 64 hexadecimal digits are the key itself; of anything else SQLCipher derives one, slowly, at every opening.
        db.execute("PRAGMA key = '{}'".format(f"x''{key}''" if _is_raw(key) else key.replace("'", "''")))
        db.execute(f"PRAGMA cipher_page_size = {PAGE}")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except dbapi2.Error as error:
        db.close()
        raise GalleryError(
            f"{shown(path)}: not a gallery, or encrypted with another key ({KEY_FILE}, {KEY})"
        ) from error
    return db


def _is_raw(key: str) -> bool:
    return re.fullmatch("[0-9A-Fa-f]{64}", key) is not None
