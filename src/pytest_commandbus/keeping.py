"""Lends databases to tests, and keeps those of failed tests where --cb-keep asks for it."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .run import RUN

if TYPE_CHECKING:
    from .database import Database

LENT = pytest.StashKey["Lent"]()
_WORKEROUTPUT = "cb_kept"


class Lent:
    """A database that tests have, and whether one of them failed."""

    def __init__(self, database: "Database") -> None:
        self.database = database
        self.failed = False
        self.psql: str | None = None  # the program, where it is not that of the run


def lend_database(request: pytest.FixtureRequest) -> "Iterator[Database]":
    """Give a database for the scope of a fixture; afterwards it is dropped, or kept after a failure with --cb-keep."""
    run = request.config.stash[RUN]
    databases = run.databases()
    lent = Lent(databases.acquire())
    request.node.stash[LENT] = lent
    yield lent.database
    databases.release(lent.database, keep=lent.failed and run.options.keep)


def lend_shared_database(item: pytest.Item, key: str) -> "Iterator[Database]":
    """Give the database that all tests of the run with this key share; it is dropped with the run."""
    run = item.config.stash[RUN]
    databases = run.databases()
    lent = Lent(databases.shared(key))
    item.stash[LENT] = lent
    yield lent.database
    if lent.failed and run.options.keep:
        databases.release(lent.database, keep=True)


def lend_private_database(item: pytest.Item) -> "Iterator[Database]":
    """Give a database on a server that the test may crash; the server goes on after a failure with --cb-keep."""
    run = item.config.stash[RUN]
    server = run.private_server()
    lending = server.lend()
    lent = Lent(next(lending))
    item.stash[LENT] = lent
    lent.psql = shlex.quote(server.psql())
    yield lent.database
    if lent.failed and run.options.keep:
        run.kept.append(f"its server goes on; end and remove it with: {server.detach()}")
    else:
        next(lending, None)


def keep(item: pytest.Item) -> str | None:
    """Mark the database of a failed test to be kept; return the psql line for it, None when nothing is kept."""
    run = item.config.stash[RUN]
    lent = next((node.stash[LENT] for node in reversed(item.listchain()) if LENT in node.stash), None)
    if lent is None or not run.options.keep:
        return None
    lent.failed = True
    line = run.psql(lent.database.dsn) if lent.psql is None else f"{lent.psql} {shlex.quote(lent.database.dsn)}"
    if line not in run.kept:
        run.kept.append(line)
    return line


def take_from_worker(node: Any) -> None:
    """Take what an xdist worker kept."""
    node.config.stash[RUN].kept.extend(getattr(node, "workeroutput", {}).get(_WORKEROUTPUT, []))


def tell_controller(config: pytest.Config) -> None:
    """Tell the controller what this xdist worker kept."""
    output = getattr(config, "workeroutput", None)
    if output is not None:
        output[_WORKEROUTPUT] = list(config.stash[RUN].kept)


def summarize(reporter: pytest.TerminalReporter) -> None:
    """Show how to look into what was kept, and how to end the server, which then outlives the run."""
    run = reporter.config.stash[RUN]
    if not run.kept:
        return
    reporter.section("kept databases of failed tests")
    for line in run.kept:
        reporter.write_line(line)
    ending = run.leave_server()
    if ending:
        reporter.write_line(f"PostgreSQL goes on for them; end and remove it with:\n{ending}")
