"""Test databases: each test gets a freshly migrated one, cloned from a template that is made once, or reset to it.

On the server stand only names of ours: `cb_template_<hash>`, made once for these migrations and this role and kept,
and `cb_<run>_...`, each marked with its run by a comment. A run holds an advisory lock while it lives, so that
what a dead run left can be told and dropped.
"""

import hashlib
import itertools
import logging
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from .postgres import databases_sql
from .postgres.admin import RUN_MARK, Admin, lock_key
from .postgres.dsn import Dsn, with_database
from .postgres.errors import PostgresError
from .postgres.reset import Snapshot, reset, take_snapshot

SPARES = 2
"""How many clones wait ready for the next tests."""

LAST_SECONDS = 5.0
"""How long the last process of a run waits for the others to end."""

KEPT_MARK = "pytest-commandbus kept, run "
_LOG = logging.getLogger(__name__)
_MOST_UNDROPPED = 8
_POLL_SECONDS = 0.05

Task = Literal["reset", "clone", "drop", "sweep", "end"]
Strategy = Literal["file_copy", "wal_log"]


@dataclass(frozen=True)
class Database:
    """A database of the tests: its name, and the connection string for it."""

    name: str
    dsn: Dsn


class Databases:
    """The databases of one process of a run, and those that its processes share.

    admin_dsn: a database of the server from which databases can be created; all processes of the run give the
    same one. run_id: the run, the same in all its processes. migrations: folders (or files) whose SQL names the
    template. prepare: fills the template through the connection string it is given, and closes its connections.
    version: what else the template depends on. strategy: file_copy is quicker on a server of our own, wal_log
    does not disturb a server that others use by a checkpoint.
    Errors: PostgresError for what cannot be had; psycopg's for what the server refuses.
    """

    def __init__(
        self,
        admin_dsn: str,
        run_id: str,
        *,
        migrations: Sequence[Path] = (),
        prepare: Callable[[str], None],
        version: str = "",
        strategy: Strategy = "wal_log",
    ) -> None:
        self._dsn = Dsn(admin_dsn)
        self._run = re.sub(r"[^a-z0-9]", "", run_id.lower())[:20]
        if not self._run:
            raise PostgresError(f"the run id {run_id!r} has no letter a-z or digit: it becomes part of names")
        self._prepare = prepare
        self._strategy = strategy
        self._migrations = migrations
        self._version = version
        self._template = ""
        self._mark = RUN_MARK + self._run
        self._prefix = f"cb_{self._run}_{secrets.token_hex(3)}"
        self._numbers = itertools.count(1)
        self._admin = Admin(self._dsn)
        self._joined = False
        self._closed = False
        self._kept: set[str] = set()
        self._made: set[str] = set()
        self._stock = threading.Condition()
        self._spares: deque[Database] = deque()
        self._used: deque[str] = deque()
        self._dirty: deque[str] = deque()
        self._supplying = False
        self._swept = False
        self._snapshot: Snapshot | None = None
        self._snapshot_tried = False
        self._resets = strategy == "file_copy"  # a reset needs a superuser, and a server that only we use
        self._handed_out: dict[str, list[tuple[object, ...]]] = {}
        self._stockkeeper: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def acquire(self) -> Database:
        """Return a database as the template is, that nobody else has: a spare one when one is ready."""
        self._join_run()
        with self._stock:
            while self._supplying and not self._spares:
                self._stock.wait()
            spare = self._spares.popleft() if self._spares else None
            self._stock.notify_all()
        if spare is not None:
            return spare
        database = self._clone(self._admin)
        self._start_stockkeeper()
        return database

    def release(self, database: Database, keep: bool = False) -> None:
        """Give a database back: it is dropped soon, or kept for good and marked so."""
        if keep:
            self._admin.mark(database.name, KEPT_MARK + self._run)
            self._kept.add(database.name)
            return
        with self._stock:
            self._used.append(database.name)
            self._stock.notify_all()

    def shared(self, key: str) -> Database:
        """Return the run's database of this key: made by whichever process asks first, the same one for all."""
        self._join_run()
        digest = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
        name = f"cb_{self._run}_s_{digest}"
        with self._admin.locked(f"shared {name}"):
            if not self._admin.rows(databases_sql.MARK_OF, name=name):
                self._admin.clone(name, self._template, self._strategy, self._mark)
        return Database(name, with_database(self._dsn, name))

    def close(self, last: bool = False) -> None:
        """Drop what this process made; the last process of the run drops what they shared. Kept databases stay.

        last: the run ends with this process, so wait a little for the others, and drop what those left that died.
        """
        import psycopg

        if self._closed:
            return
        self._closed = True
        with self._stock:
            self._stock.notify_all()
        if self._stockkeeper is not None:
            self._stockkeeper.join()
        try:
            if self._joined:
                for name in sorted(self._made - self._kept):
                    self._admin.drop(name)
                self._admin.rows(databases_sql.UNLOCK_SHARED, key=lock_key(self._mark))
            if self._joined or last:
                drop_run(self._admin, self._mark, patience=LAST_SECONDS if last else 0.0)
        except psycopg.OperationalError:  # a server that is gone took them with it, or the next run sweeps them
            _LOG.warning("the databases of run %s could not be dropped", self._run, exc_info=True)
        finally:
            self._admin.close()

    def _join_run(self) -> None:
        """Hold the run's lock and have the template; both once, and again when the session was lost."""
        if self._closed:
            raise PostgresError("these databases are closed: acquire them before close()")
        if self._joined and self._admin.connected:
            return
        self._admin.rows(databases_sql.LOCK_SHARED, key=lock_key(self._mark))
        role = str(self._admin.rows(databases_sql.ROLE)[0][0])
        self._template = f"cb_template_{template_hash(self._migrations, self._version, role)}"
        self._ensure_template()
        self._joined = True

    def _ensure_template(self) -> None:
        with self._admin.locked(self._template):
            state = self._admin.rows(databases_sql.IS_SEALED, name=self._template)
            if state and state[0][0]:
                return
            self._admin.drop(self._template)  # whoever began it died
            self._admin.create(self._template)
            try:
                self._prepare(with_database(self._dsn, self._template))
                # A session leaves the file of the catalog's cache, which makes the first one on each clone quicker.
                Admin(with_database(self._dsn, self._template)).touch()
                self._admin.seal(self._template)
            except BaseException:
                self._admin.drop(self._template)
                raise

    def _clone(self, admin: Admin) -> Database:
        name = self._new_name()
        admin.clone(name, self._template, self._strategy, self._mark)
        return self._ready(admin, name)

    def _ready(self, admin: Admin, name: str) -> Database:
        if self._resets:
            self._handed_out[name] = admin.counting(name)
        return Database(name, with_database(self._dsn, name))

    def _new_name(self) -> str:
        name = f"{self._prefix}_{next(self._numbers)}"
        self._made.add(name)
        return name

    def _start_stockkeeper(self) -> None:
        if self._stockkeeper is None:
            self._stockkeeper = threading.Thread(target=self._keep_stock, name="commandbus-databases", daemon=True)
            self._stockkeeper.start()

    def _keep_stock(self) -> None:
        """In the background: reset or drop used databases, clone spares, and once drop what dead runs left."""
        import psycopg

        admin = Admin(self._dsn)
        try:
            # A clone that is under way when this process is killed is still made: the lock lasts as long.
            admin.rows(databases_sql.LOCK_SHARED, key=lock_key(self._mark))
            while self._work(admin):
                pass
            admin.rows(databases_sql.UNLOCK_SHARED, key=lock_key(self._mark))
        except psycopg.Error:  # the next acquire works in the foreground, and raises what is wrong
            _LOG.warning("no more spare databases: the background session failed", exc_info=True)
        finally:
            self._put(None)
            admin.close()

    def _work(self, admin: Admin) -> bool:
        """Do the most urgent piece of work, waiting for one; False once closed."""
        with self._stock:
            self._stock.wait_for(lambda: self._next_task() is not None)
            task = self._next_task()
            self._supplying = task in ("reset", "clone")
            name = {"reset": self._used, "drop": self._dirty}[task].popleft() if task in ("reset", "drop") else ""
        if task == "reset":
            self._put(self._reset(admin, name))
        elif task == "clone":
            self._put(self._clone_spare(admin))
        elif task == "drop":
            admin.drop(name)
            self._made.discard(name)
        elif task == "sweep":
            self._swept = True
            drop_dead_runs(admin)
        return task != "end"

    def _next_task(self) -> Task | None:
        if self._closed:
            return "end"
        if self._used and len(self._spares) < 2 * SPARES:
            return "reset"
        if len(self._spares) < SPARES and len(self._dirty) <= _MOST_UNDROPPED:
            return "clone"
        self._dirty.extend(self._used)
        self._used.clear()
        if self._dirty:
            return "drop"
        return None if self._swept else "sweep"

    def _put(self, spare: Database | None) -> None:
        with self._stock:
            if spare is not None:
                self._spares.append(spare)
            self._supplying = False
            self._stock.notify_all()

    def _clone_spare(self, admin: Admin) -> Database:
        """Return a new clone; on a server of our own, see at the first one what a reset has to restore."""
        import psycopg

        spare = self._clone(admin)
        if self._resets and not self._snapshot_tried:
            self._snapshot_tried = True
            with psycopg.connect(spare.dsn, autocommit=True) as connection:
                self._snapshot = take_snapshot(connection)
        return spare

    def _reset(self, admin: Admin, name: str) -> Database | None:
        """Return a used database as good as new, under a new name; None when it has to be dropped."""
        import psycopg

        admin.end_sessions(name)
        handed_out = self._handed_out.pop(name, None)
        if self._snapshot is not None and handed_out == admin.counting(name):
            try:
                with psycopg.connect(with_database(self._dsn, name), autocommit=True) as connection:
                    clean = reset(connection, self._snapshot)
                if clean:
                    # A client that a test left behind, and that connects again, must not meet the next test.
                    admin.end_sessions(name)
                    new_name = self._new_name()
                    admin.rename(name, new_name)
                    self._made.discard(name)
                    return self._ready(admin, new_name)
            except psycopg.Error:
                _LOG.debug("%s could not be reset and is dropped", name, exc_info=True)
        self._dirty.append(name)
        return None


def template_hash(migrations: Sequence[Path], version: str = "", role: str = "") -> str:
    """Return the name of what these migrations build: 16 hexadecimal digits of their names and contents.

    role: owns what they build; another role could not use it.
    """
    digest = hashlib.blake2b(repr((version, role)).encode(), digest_size=8)
    for path in migrations:
        for file in sorted(path.rglob("*.sql")) if path.is_dir() else [path]:
            digest.update(repr((file.name, file.read_bytes())).encode())
    return digest.hexdigest()


def drop_run(admin: Admin, mark: str, patience: float = 0.0) -> None:
    """Drop all databases of a run, unless a process of it lives for `patience` seconds yet; kept ones stay."""
    deadline = time.monotonic() + patience
    while True:
        with admin.tried(mark) as alone:
            if alone:
                for name, of_run in admin.marked(mark):
                    if of_run == mark:
                        admin.drop(name)
        if alone or time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


def drop_dead_runs(admin: Admin) -> None:
    """Drop the databases of every run that no longer lives; databases without our mark are never touched."""
    for mark in sorted({mark for _, mark in admin.marked(RUN_MARK)}):
        drop_run(admin, mark)
