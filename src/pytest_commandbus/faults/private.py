"""A server that tests may crash: one for each pytest process that needs it, whose databases are lent to such tests."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..postgres.admin import Admin
from ..postgres.dsn import with_database
from ..postgres.server import EmbeddedPostgres

if TYPE_CHECKING:
    from ..database import Database
    from .disk import SmallDisk

_TEMPLATE = "cb_template"
_MARK = "pytest-commandbus private"


class PrivateServer:
    """Started when first needed, with full_page_writes on. Threads may share it."""

    def __init__(self, migrations: Sequence[Path], durable: bool = False) -> None:
        self._migrations = migrations
        self._durable = durable
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._server: EmbeddedPostgres | None = None
        self.disk: SmallDisk | None = None  # of the database that is lent

    @property
    def server(self) -> EmbeddedPostgres:
        """The server itself, running."""
        self.start()
        if self._server is None:
            raise RuntimeError("the server was just started")
        return self._server

    def start(self) -> None:
        """Start it, on new data or on what a crash left."""
        with self._lock:
            if self._server is not None:
                self._server.start()
                return
            self._server = EmbeddedPostgres(durable=self._durable, crash_safe=True)
            self._server.start()
            try:
                self._make_template()
            except BaseException:
                self.stop()
                raise

    def crash(self) -> None:
        """SIGKILL it, with all its processes."""
        with self._lock:
            self.server.crash()

    def restart(self) -> None:
        """Shut it down in order and start it again."""
        with self._lock:
            self.server.restart()

    def stop(self) -> None:
        """End it, and all it had."""
        with self._lock:
            server, self._server = self._server, None
            if server is not None:
                server.stop()
            disk, self.disk = self.disk, None
            if disk is not None:
                disk.abandon()

    def detach(self) -> str:
        """Let it go on for kept databases; return the line that ends it. The next test gets a new one."""
        with self._lock:
            server, self._server = self.server, None
            return server.detach()

    def psql(self) -> str:
        """Return the program for a look at it."""
        return self.server.binaries.program("psql")

    def lend(self) -> "Iterator[Database]":
        """Give a migrated database; it is dropped afterwards."""
        from ..database import Database

        name = f"cb_private_{next(self._numbers)}"
        self._do(lambda admin: admin.clone(name, _TEMPLATE, "file_copy", _MARK))
        yield Database(name, with_database(self.server.dsn(), name))
        self._drop(name)

    def _drop(self, name: str) -> None:
        import psycopg

        if self._server is None:
            return
        try:
            self._do(lambda admin: admin.drop(name))
            disk, self.disk = self.disk, None
            if disk is not None:
                disk.unmount(self.server.dsn())
        except psycopg.Error:  # whatever a test has done to it, the next one gets a new one
            self.stop()

    def _make_template(self) -> None:
        from ..template import prepare

        dsn = self.server.dsn()
        self._do(lambda admin: admin.create(_TEMPLATE))
        prepare(with_database(dsn, _TEMPLATE), self._migrations)
        self._do(lambda admin: admin.seal(_TEMPLATE))

    def _do(self, work: Callable[[Admin], None]) -> None:
        admin = Admin(self.server.dsn())
        try:
            work(admin)
        finally:
            admin.close()
