"""A disk of a few megabytes for a database of our own server, to be filled up: a tmpfs, where one may be mounted."""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from ..postgres.account import server_account
from . import faults_sql as sql

if TYPE_CHECKING:
    from .private import PrivateServer

MEGABYTES = 48
_CHUNK = 1 << 20
_TRIES = 20


class SmallDisk:
    """A tmpfs that holds the tables of one database, in a tablespace. It stays until the server ends its database."""

    def __init__(self, mount: Path, name: str) -> None:
        self.mount = mount
        self._name = name
        self._ballast = mount / "ballast"

    @classmethod
    def under(cls, server: "PrivateServer", dsn: str) -> "SmallDisk":
        """Return the disk of a database, made when it has none. Skips the test where no tmpfs may be mounted."""
        if server.disk is None:
            mount = _mounted()
            server.disk = cls(mount, "cb_small_disk")
            server.disk._move(dsn)
        return server.disk

    def fill(self) -> None:
        """Fill it up to the last byte."""
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"\0" * _CHUNK)
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"\0" * 512)

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self, admin_dsn: str) -> None:
        """Give it up, once its database is dropped."""
        with psycopg.connect(admin_dsn, autocommit=True) as conn:
            conn.execute(SQL(sql.DROP_TABLESPACE).format(name=Identifier(self._name)))
        self.abandon()

    def abandon(self) -> None:
        """Give it up when the server is gone."""
        subprocess.run(["umount", "--lazy", str(self.mount)], check=False, capture_output=True)
        shutil.rmtree(self.mount, ignore_errors=True)

    def _move(self, dsn: str) -> None:
        """Put the tables of the database on the disk, against workers that use them meanwhile."""
        data = self.mount / "data"
        data.mkdir(mode=0o700)
        server_account().own(data)
        name = Identifier(self._name)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SQL(sql.CREATE_TABLESPACE).format(name=name, location=Literal(str(data))))
            for statement in (sql.MOVE_TABLES, sql.MOVE_INDEXES):
                _insist(conn, SQL(statement).format(name=name))


def _insist(conn: "psycopg.Connection[Any]", statement: Any) -> None:
    """Run what may be the victim of a deadlock."""
    for attempt in range(1, _TRIES + 1):
        try:
            conn.execute(statement)
            return
        except psycopg.errors.DeadlockDetected:
            if attempt == _TRIES:
                raise


def _mounted() -> Path:
    """Return a new tmpfs; skips the test, with the reason, where that is not allowed."""
    mount = Path(tempfile.mkdtemp(prefix="cb-disk-"))
    mount.chmod(0o755)
    words = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=0755", "cb-disk", str(mount)]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        reason = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        mount.rmdir()
        who = "root" if os.geteuid() == 0 else "this user"
        pytest.skip(f"full_disk needs a small tmpfs, and {who} may not mount one here: {reason}")
    return mount
