"""A PostgreSQL server of our own: started in a fraction of a second, gone with the process that started it."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from . import watchdog
from .account import Account, server_account
from .binaries import Binaries, find_binaries
from .cluster import SUPERUSER, make_cluster, make_standby, server_settings
from .errors import PostgresError
from .places import make_data_home, make_socket_directory

PORT = 5432
START_SECONDS = 60.0
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.002
_LOG_TAIL = 4000


class EmbeddedPostgres:
    """One server on the wheel's programs, reached by a unix socket in a directory of its own.

    durable: data on disk, with fsync and full_page_writes on. crash_safe: full_page_writes on, for servers that
    tests crash. settings: names and values of postgresql.conf, over ours. tcp: also listen on 127.0.0.1, behind a
    password drawn at the start. programs: the directory of another installation's programs. standby_of: a running
    server that this one is a copy of and follows, until `promote`.
    Errors: PostgresError, with the end of the server's log.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        crash_safe: bool = False,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        programs: Path | None = None,
        standby_of: "EmbeddedPostgres | None" = None,
    ) -> None:
        self._standby_of = standby_of
        self._durable = durable
        self._crash_safe = crash_safe
        self._settings = dict(settings or {})
        self._tcp = tcp
        self._programs = programs
        self._port = PORT
        self._password = ""
        self._account = Account()
        self._binaries: Binaries | None = None
        self._home: Path | None = None
        self._socket: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"EmbeddedPostgres(pid={self.pid}, home={str(self._home)!r})"

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, or None while the server does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def home(self) -> Path:
        """The directory of this server, which its end removes: the data directory and the log are in it."""
        if self._home is None:
            raise PostgresError("the server is not started: call start() first")
        return self._home

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    @property
    def binaries(self) -> Binaries:
        """The programs that the server runs on."""
        if self._binaries is None:
            raise PostgresError("the server is not started: call start() first")
        return self._binaries

    def dsn(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """Return a connection string for one database as the superuser: by the unix socket, or by 127.0.0.1."""
        if self._socket is None:
            raise PostgresError("the server is not started: call start() first")
        name = "'" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"
        if not tcp:
            return f"host={self._socket} port={self._port} user={SUPERUSER} dbname={name}"
        if not self._tcp:
            raise PostgresError("this server does not listen on TCP: make it with tcp=True")
        return f"host=127.0.0.1 port={self._port} user={SUPERUSER} password={self._password} dbname={name}"

    def start(self) -> None:
        """Start the server, on new data or on what a crash left; return when it accepts connections."""
        if self.pid is not None:
            return
        try:
            if self._home is None:
                self._prepare()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove all it had. Its data is lost: nothing is saved first."""
        pid = self.pid
        if pid is not None:
            watchdog.send(pid, signal.SIGQUIT)
            self._reap()
        if self._home is not None:
            watchdog.remove_leftovers(self.data)
        for directory in (self._home, self._socket):
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)
        self._release_watchdog(b"")
        self._home = self._socket = None

    def crash(self) -> None:
        """SIGKILL the postmaster and every process of it; the data stays as it is for `start` or `restart`."""
        pid = self.pid
        if pid is None:
            raise PostgresError("the server does not run, so it cannot be crashed: call start() first")
        watchdog.kill_server(pid)
        self._reap()
        watchdog.remove_leftovers(self.data)

    def restart(self) -> None:
        """Shut the server down in order (all sessions end, all data is kept) and start it again."""
        pid = self.pid
        if pid is not None:
            watchdog.send(pid, signal.SIGINT)
            self._reap()
        self.start()

    def promote(self) -> None:
        """Make a standby a primary; return when it takes writes."""
        done = subprocess.run(
            [self.binaries.program("psql"), "-X", "-q", "-A", "-t", "-d", self.dsn(), "-c", "SELECT pg_promote()"],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        if done.stdout.strip() != "t":
            raise PostgresError(f"the standby was not promoted: {done.stderr.strip()}\n{self.log()}")

    def detach(self) -> str:
        """Let the server go on after this process has ended; return the shell line that ends and removes it."""
        pid = self.pid
        if pid is None:
            raise PostgresError("the server does not run, so it cannot be left running")
        if self._process is not None:
            self._process.returncode = 0  # ours no more: that it still runs is meant
        self._release_watchdog(watchdog.DETACH)
        return f"kill -QUIT {pid}; sleep 1; rm -rf '{self._home}' '{self._socket}'"

    def log(self) -> str:
        """Return the end of the server's log."""
        try:
            return (self.home / "server.log").read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
        except OSError:
            return ""

    def _prepare(self) -> None:
        """Make the directories, the watchdog over them, and the data."""
        self._account = server_account()
        self._binaries = find_binaries(self._account, self._programs)
        self._home, in_memory = make_data_home(self._account, durable=self._durable)
        self._socket = make_socket_directory(self._home, self._account)
        self._start_watchdog()
        settings = server_settings(
            major=self._binaries.major,
            durable=self._durable,
            crash_safe=self._crash_safe,
            in_memory=in_memory,
            extra=self._settings,
        )
        if self._standby_of is not None:
            make_standby(self.data, self._binaries, self._account, settings, primary=self._standby_of.dsn())
            return
        # Another user of the machine may connect to TCP, so unlike the private socket it asks for a password.
        host_lines = "host all all 127.0.0.1/32 scram-sha-256" if self._tcp else ""
        make_cluster(self.data, self._binaries, self._account, settings, sync=self._durable, host_lines=host_lines)

    def _start_watchdog(self) -> None:
        self._watchdog = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                watchdog.__file__,
                str(os.getpid()),
                str(self.data),
                str(self._home),
                str(self._socket),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _release_watchdog(self, word: bytes) -> None:
        if self._watchdog is None:
            return
        self._watchdog.communicate(word)
        self._watchdog = None

    def _launch(self) -> None:
        self._port = _free_port() if self._tcp and not self._password else self._port
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        command = [
            self.binaries.program("postgres"),
            "-D",
            str(self.data),
            "-k",
            str(self._socket),
            "-p",
            str(self._port),
        ]
        command += ["-h", self._settings.get("listen_addresses", "127.0.0.1" if self._tcp else "")]
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=environment,
                start_new_session=True,
                **self._account.identity,
            )
        self._wait_until_ready(self._process)
        if self._tcp and not self._password:
            self._set_password()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            lines = watchdog.read_postmaster_file(self.data)
            if len(lines) >= 8 and lines[0].strip() == str(process.pid) and lines[7].strip() == "ready":
                return
            if process.poll() is not None:
                raise PostgresError(f"PostgreSQL in {self.home} ended with status {process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise PostgresError(f"PostgreSQL in {self.home} was not ready after {START_SECONDS:g} s:\n{self.log()}")
            time.sleep(_POLL_SECONDS)

    def _set_password(self) -> None:
        self._password = secrets.token_hex(16)
        done = subprocess.run(
            [self.binaries.program("psql"), "-X", "-q", "-d", self.dsn()],
            input=f"ALTER ROLE {SUPERUSER} PASSWORD '{self._password}';",
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        if done.returncode != 0:
            raise PostgresError(f"the server's password could not be set: {done.stderr.strip()}")

    def _reap(self) -> None:
        """Wait for the end of the postmaster, by force when it takes too long."""
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            watchdog.kill_server(self._process.pid)
            self._process.wait()
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
