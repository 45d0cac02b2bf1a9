"""What all tests of one pytest run share: the options, the seed, and the one PostgreSQL server."""

import functools
import os
import secrets
import shlex
import shutil
import sys
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .options import Options, read_options
from .profiles import Profiles, pyproject_of

if TYPE_CHECKING:
    from .database import Databases
    from .faults.private import PrivateServer
    from .postgres.resolve import Server
    from .rendezvous import ServerDesk

RUN = pytest.StashKey["Run"]()
_WORKERINPUT = "cb_run"
_DRAWN_SEEDS = 2**32
_SAID_AT_THE_END = ("--cb-seed", "--cb-chaos")  # of the line that runs again


class Run:
    """One pytest run, in this process: the controller's, an xdist worker's, or the only one.

    seed: of every roll. run_id: the same in all processes of the run. worker_id: "gw0" and so on, "" without xdist.
    rerun: the command that runs again, without tests, seed and profile; directory: where it was given. profiles: of
    chaos, in the run's pyproject.toml.
    """

    def __init__(
        self,
        options: Options,
        *,
        seed: int,
        run_id: str,
        rerun: str,
        directory: Path,
        profiles: Profiles,
        worker_id: str = "",
        desk: Mapping[str, str] | None = None,
    ) -> None:
        self.options = options
        self.seed = seed
        self.run_id = run_id
        self.rerun = rerun
        self.directory = directory
        self.profiles = profiles
        self.worker_id = worker_id
        self._desk_address = desk
        self._desk: ServerDesk | None = None
        self._dsn = ""
        self._no_server: str | None = None
        self._server: Server | None = None
        self._databases: Databases | None = None
        self._private: PrivateServer | None = None
        self._lock = threading.Lock()
        self.kept: list[str] = []

    @property
    def dsn_if_known(self) -> str | None:
        """The server's DSN once a test has needed it, else None."""
        return self._dsn or None

    def dsn(self) -> str:
        """Return the DSN of the run's server; the first to ask has it started, once a run, by the controller.

        Errors: PostgresError, the same one for each who asks: a server that cannot be had is tried once.
        """
        from .postgres.errors import PostgresError

        with self._lock:
            if not self._dsn and self._no_server is None:
                try:
                    self._dsn = self._have_server()
                except PostgresError as error:
                    self._no_server = str(error)
            if self._no_server is not None:
                raise PostgresError(self._no_server)
            return self._dsn

    def _have_server(self) -> str:
        if self._desk_address is not None:
            from .postgres.dsn import Dsn
            from .rendezvous import ask

            return Dsn(ask(self._desk_address))
        from .postgres.resolve import resolve_server

        self._server = resolve_server(self.options.postgres, self.options.durable, self.options.container_image)
        self._server.check()
        return self._server.dsn

    def databases(self) -> "Databases":
        """Return what lends test databases in this process."""
        if self._databases is None:
            from .database import Databases
            from .template import SCHEMA, prepare, version

            dsn = self.dsn()
            self._databases = Databases(
                dsn,
                self.run_id,
                migrations=[SCHEMA, *self.options.migrations],
                version=version(),
                prepare=functools.partial(prepare, folders=self.options.migrations),
                strategy="wal_log" if self.options.is_dsn else "file_copy",
            )
        return self._databases

    def private_server(self) -> "PrivateServer":
        """Return the server of this process that tests may crash."""
        if self._private is None:
            from .faults.private import PrivateServer

            self._private = PrivateServer(self.options.migrations, self.options.durable)
        return self._private

    def workerinput(self) -> dict[str, Any]:
        """Return what an xdist worker needs to know of the run: built-in types only."""
        if self._desk is None:
            from .rendezvous import ServerDesk

            self._desk = ServerDesk(self.dsn)
        return {
            "seed": self.seed,
            "run_id": self.run_id,
            "rerun": self.rerun,
            "directory": str(self.directory),
            "desk": dict(self._desk.address),
        }

    def psql(self, dsn: str) -> str:
        """Return the shell line for a look into the database of `dsn`, from any folder.

        It shows no password of the user's: psql asks for it, or finds it in the environment. That of a container of
        our own, which nobody else knows, is on the line.
        """
        from psycopg.conninfo import conninfo_to_dict

        from .postgres.resolve import CONTAINER, without_password

        own = "" if self.options.postgres != CONTAINER else f"PGPASSWORD={conninfo_to_dict(dsn)['password']} "
        return f"{own}{self._psql_program()} {shlex.quote(without_password(dsn))}"

    def _psql_program(self) -> str:
        found = shutil.which("psql")
        if found is None and not self.options.is_dsn:
            from .postgres.account import server_account
            from .postgres.binaries import find_binaries

            found = find_binaries(server_account()).program("psql")
        return shlex.quote(found or "psql")

    def leave_server(self) -> str | None:
        """Let the server of this process go on after the run; return the shell line that ends it, if there is one."""
        server, self._server = self._server, None
        return None if server is None else server.detach() or None

    def close(self) -> None:
        """End what the run started; with kept databases the server goes on."""
        controls = self._desk is not None  # xdist workers, and those that close too slowly are ended
        if controls and self.options.is_dsn and self.dsn_if_known:
            self.databases()
        if self._databases is not None:
            self._databases.close(last=controls and self.options.is_dsn)
            self._databases = None
        if self._desk is not None:
            self._desk.close()
            self._desk = None
        if self._private is not None:
            self._private.stop()
            self._private = None
        if self._server is not None:
            self._server.stop()
            self._server = None


def start_run(config: pytest.Config) -> None:
    """Make the Run of this process and keep it on the config."""
    options = read_options(config)
    profiles = Profiles(pyproject_of(config))
    given: Mapping[str, Any] | None = getattr(config, "workerinput", {}).get(_WORKERINPUT)
    if given is None:
        if options.chaos is not None and profiles.has(options.chaos):
            profiles.get(options.chaos, "--cb-chaos").behaviors()
        seed = secrets.randbelow(_DRAWN_SEEDS) if options.seed is None else options.seed
        config.stash[RUN] = Run(
            options,
            seed=seed,
            run_id=secrets.token_hex(4),
            rerun=_rerun(config),
            directory=config.invocation_params.dir,
            profiles=profiles,
        )
    else:
        config.stash[RUN] = Run(
            options,
            seed=given["seed"],
            run_id=given["run_id"],
            rerun=given["rerun"],
            directory=Path(given["directory"]),
            profiles=profiles,
            worker_id=os.environ.get("PYTEST_XDIST_WORKER", ""),
            desk=given["desk"],
        )


def tell_worker(node: Any) -> None:
    """Tell an xdist worker that is about to start what it shares with the others."""
    node.workerinput[_WORKERINPUT] = node.config.stash[RUN].workerinput()


def end_run(config: pytest.Config) -> None:
    """End the Run of this process."""
    run = config.stash.get(RUN, None)
    if run is not None:
        run.close()
        del config.stash[RUN]


def rerun_line(config: pytest.Config, nodeid: str) -> str:
    """Return the shell line that runs one test again, by the same seed and profile, from where pytest was started."""
    run = config.stash[RUN]
    path, separator, rest = nodeid.partition("::")
    where = os.path.relpath(config.rootpath / path, run.directory)
    profile = "" if run.options.chaos is None else f" --cb-chaos={shlex.quote(run.options.chaos)}"
    return f"{run.rerun} {shlex.quote(where + separator + rest)} --cb-seed={run.seed}{profile}"


def _rerun(config: pytest.Config) -> str:
    arguments = list(config.invocation_params.args)
    for path in reversed(config.getoption("file_or_dir", default=None) or []):
        if path in arguments:
            arguments.reverse()
            arguments.remove(path)
            arguments.reverse()
    kept, skip = [], False
    for argument in arguments:
        named = argument.partition("=")[0] in _SAID_AT_THE_END
        if not skip and not named:
            kept.append(argument)
        skip = not skip and argument in _SAID_AT_THE_END
    shown = [_without_password(before, argument) for before, argument in pairwise(["", *kept])]
    started_as_module = Path(sys.argv[0]).name == "__main__.py"
    program = "python -m pytest" if started_as_module else "pytest"
    secret = [] if shown == kept else ["PGPASSWORD=***"]
    return " ".join([*secret, program, *map(shlex.quote, shown)])


def _without_password(before: str, argument: str) -> str:
    name, equals, value = argument.partition("=")
    if before == "--cb-postgres":
        name, equals, value = "", "", argument
    elif not equals or name not in {"--cb-postgres", "cb_postgres"}:
        return argument
    if value in {"embedded", "container"}:
        return argument
    from .postgres.dsn import without_password

    return name + equals + without_password(value)
