"""Applications in files of their own, run by `commandbus worker` in processes of their own on one database."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, LiteralString

import psycopg

from commandbus.auditor import audit, format_violations

PATIENCE = 60.0  # seconds: processes of their own on a busy machine


class Deployed:
    """A running `commandbus worker`; what it writes goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def said(self) -> str:
        """Everything that it has written so far."""
        return self.log.read_text()

    def until_ready(self) -> "Deployed":
        """Wait until its workers are registered."""
        deadline = monotonic() + PATIENCE
        while "worker ready" not in self.said:
            assert self.process.poll() is None, self.said
            assert monotonic() < deadline, self.said
            sleep(0.02)
        return self

    def stop(self) -> None:
        """Stop it gracefully."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=PATIENCE) == 0, self.said

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait(timeout=PATIENCE)


@contextmanager
def deployed(folder: Path, dsn: str, application: str, *arguments: str) -> Iterator[Deployed]:
    """Run workers of MODULE:APP in `folder` while the block runs; not ready yet when it begins."""
    number = len(list(folder.glob("*.log")))
    log = folder / f"{application.partition(':')[0]}-{number}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "commandbus", "worker", application, *arguments],
            cwd=folder,
            env={**os.environ, "COMMANDBUS_DSN": dsn},
            stdout=out,
            stderr=out,
        )
    try:
        yield Deployed(process, log)
    finally:
        process.kill()
        process.wait()


async def ask(dsn: str, statement: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
    """Run one statement; returns its rows."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        cursor = await conn.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


async def ended(dsn: str) -> bool | None:
    """Whether nothing is queued, scheduled or claimed, no process is open but those that wait for an operator."""
    [(count,)] = await ask(
        dsn,
        """SELECT (SELECT count(*) FROM commandbus.queue) + (SELECT count(*) FROM commandbus.scheduled)
                + (SELECT count(*) FROM commandbus.process
                    WHERE completed_at IS NULL AND status <> 'WAITING_FOR_TSQ')""",
    )
    return count == 0 or None


async def events(dsn: str) -> Counter[str]:
    """How many events of each type there are."""
    return Counter(dict(await ask(dsn, "SELECT type, count(*)::integer FROM commandbus.event GROUP BY type")))


async def most_events(dsn: str, event_type: str) -> int:
    """How many events of a type the command with the most of them has."""
    [(most,)] = await ask(
        dsn,
        """SELECT coalesce(max(n), 0) FROM (SELECT count(*)::integer AS n FROM commandbus.event
                                              WHERE type = %s GROUP BY command_id) e""",
        event_type,
    )
    return int(most)


async def audit_clean(dsn: str, *, liveness: bool = True) -> None:
    """Assert that the auditor finds nothing in the whole database."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        violations = await audit(conn, liveness=liveness)
    assert not violations, format_violations(violations)
