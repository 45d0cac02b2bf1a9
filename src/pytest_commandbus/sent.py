"""What was sent since a moment: the assertion on it, and the block that begins one."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import pytest

from commandbus import BatchCommand, CommandBus, SendRequest
from commandbus.payload import dump_payload, load_payload

from . import assertions_sql
from .assertions import SHOWN, check_nothing_left, check_within, poll

if TYPE_CHECKING:
    from commandbus._core.connection import Connection

    from .runtime import Runtime


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command that was sent; `at` is on the bus's clock."""

    command_id: UUID
    domain: str
    command_type: str
    data: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Sendings:
    """What was sent after the audit event `since`: all, or by the batch `batch_id` and its processes."""

    runtime: "Runtime"
    since: int = 0
    batch_id: UUID | None = None

    async def check(
        self, command_type: str, where: Mapping[str, Any] | None, domain: str | None, within: float
    ) -> list[SentCommand]:
        """Return the commands of the type whose data has what `where` says; raise AssertionError when there are none.

        Waits for one for `within` seconds of real time. Errors: pytest.UsageError for arguments that say nothing valid.
        """
        __tracebackhide__ = True
        check_within(within, "assert_sent")
        wanted = _read_where(where)

        async def look() -> tuple[list[SentCommand], list[SentCommand]]:
            sent = await self._sent(command_type, domain)
            return sent, [command for command in sent if not differences(wanted, command.data)]

        sent, found = await poll(self.runtime, look, lambda seen: bool(seen[1]), within)
        if not found:
            raise AssertionError(await self._miss(command_type, wanted, domain, within, sent))
        return found

    async def _sent(self, command_type: str, domain: str | None) -> list[SentCommand]:
        parameters = {
            "command_type": command_type,
            "domain": domain,
            "since": self.since,
            "batch_id": self.batch_id,
        }
        async with self.runtime.pool.connection() as connection:
            rows = await (await connection.execute(assertions_sql.SENT, parameters)).fetchall()
        return [SentCommand(id_, domain_, name, load_payload(data), at) for id_, domain_, name, data, at in rows]

    async def _miss(
        self,
        command_type: str,
        wanted: Mapping[str, Any],
        domain: str | None,
        within: float,
        sent: Sequence[SentCommand],
    ) -> str:
        asked = f"{command_type}{f' of domain {domain!r}' if domain else ''}{f' with {dict(wanted)}' if wanted else ''}"
        scope = "" if self.batch_id is None else f" by the batch {self.batch_id}"
        waited = f", in {within:g} s" if within else ""
        head = f"assert_sent: no {asked} was sent{scope}{waited}"
        return "\n".join([head, *(closest(wanted, sent) if sent else await self._others(command_type))])

    async def _others(self, command_type: str) -> list[str]:
        async with self.runtime.pool.connection() as connection:
            cursor = await connection.execute(
                assertions_sql.SENT_TYPES, {"since": self.since, "batch_id": self.batch_id}
            )
            rows = await cursor.fetchall()
        if not rows:
            return ["  nothing was sent since this began"]
        near = difflib.get_close_matches(command_type, {name for _, name, _ in rows}, n=1, cutoff=0.7)
        hint = [f"  did you mean {near[0]}?"] if near and near[0] != command_type else []
        return [*hint, "  what was sent:", *(f"    {n} x {name} of domain {domain!r}" for domain, name, n in rows)]


class AssertsSent(ABC):
    """What can say of commands that they were sent: a batch of its own, the bus of all."""

    @abstractmethod
    def _sendings(self) -> Sendings:
        """Return what was sent by whom it is about."""

    async def assert_sent(
        self,
        command_type: str,
        *,
        where: Mapping[str, Any] | None = None,
        domain: str | None = None,
        within: float = 0,
    ) -> list[SentCommand]:
        """Assert that such a command was sent; return all such, oldest first.

        Of a batch: by it, or by a process of it. Of the bus: since the fixture began; of a block: since it began.
        where: fields that its data must have, with their values; objects within may have more fields. within: seconds
        of real time to wait for one. Errors: AssertionError, which shows the closest commands.
        """
        __tracebackhide__ = True
        return await self._sendings().check(command_type, where, domain, within)


class Watching(AssertsSent):
    """What is sent since the block `async with cb_bus.watching() as seen:` began."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime
        self._since: int | None = None

    async def __aenter__(self) -> Self:
        async with self._runtime.pool.connection() as connection:
            row = await (await connection.execute(assertions_sql.LAST_EVENT)).fetchone()
        self._since = 0 if row is None else int(row[0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing ends: what is sent later counts as well."""

    def _sendings(self) -> Sendings:
        if self._since is None:
            raise pytest.UsageError("watching() is a block: write `async with cb_bus.watching() as seen:`")
        return Sendings(self._runtime, self._since)


class BusHandle(CommandBus, AssertsSent):
    """The `CommandBus` of a test, with assertions: what `cb_bus` returns.

    since: the last audit event before the fixture began; what was sent earlier is none of this test's.
    """

    def __init__(self, runtime: "Runtime", since: int = 0) -> None:
        super().__init__(runtime.pool)
        self._runtime = runtime
        self._since = since

    async def send(self, *, command_id: UUID, conn: "Connection | None" = None, **request: Any) -> UUID:
        """As `CommandBus.send`; the audit holds it to what it acknowledges."""
        sent = await super().send(command_id=command_id, conn=conn, **request)
        if conn is None:  # the caller may still roll back
            self._runtime.ledger.acknowledge([command_id])
        return sent

    async def send_batch(self, requests: Iterable[SendRequest], **options: Any) -> int:
        """As `CommandBus.send_batch`; the audit holds it to what it acknowledges."""
        sending = list(requests)
        count = await super().send_batch(sending, **options)
        self._runtime.ledger.acknowledge(request.command_id for request in sending)
        return count

    async def create_batch(
        self, domain: str, batch_commands: Sequence[BatchCommand], *, conn: "Connection | None" = None, **options: Any
    ) -> UUID:
        """As `CommandBus.create_batch`; the audit holds it to what it acknowledges."""
        batch_id = await super().create_batch(domain, batch_commands, conn=conn, **options)
        if conn is None:
            self._runtime.ledger.fill(batch_id, len(batch_commands))
        return batch_id

    def _sendings(self) -> Sendings:
        return Sendings(self._runtime, self._since)

    async def assert_nothing_left(self, *, within: float = 0) -> None:
        """Assert that no process is unfinished, no command waits, runs or is parked, and no reply is unread.

        within: seconds of real time to wait for that. Errors: AssertionError, which shows what is left, and why.
        """
        __tracebackhide__ = True
        await check_nothing_left(self._runtime, None, within)

    def watching(self) -> Watching:
        """Return a block whose `assert_sent` knows only what was sent since it began."""
        return Watching(self._runtime)


def closest(wanted: Mapping[str, Any], sent: Sequence[SentCommand]) -> list[str]:
    """Return the commands that differ least, each with the fields that differ, and how many more there are."""
    ranked = sorted(((differences(wanted, command.data), command) for command in sent), key=lambda pair: len(pair[0]))
    lines = ["  the closest:"]
    for different, command in ranked[:SHOWN]:
        lines.append(f"    {command.command_type} {command.command_id}: {'; '.join(different)}")
    if len(ranked) > SHOWN:
        lines.append(f"    (and {len(ranked) - SHOWN} more)")
    fields = {name for command in sent for name in command.data}
    unknown = [repr(name) for name in wanted if name not in fields]
    if unknown:
        lines.append(
            f"  none of them has a field {' or '.join(unknown)}: they have {', '.join(sorted(fields)) or 'none'}"
        )
    return lines


def differences(wanted: Mapping[str, Any], data: Mapping[str, Any], within: str = "") -> list[str]:
    """Return a line for each wanted field that `data` has not, or has with another value. Fields within as `a.b`."""
    found = []
    for name, value in wanted.items():
        path = f"{within}{name}"
        if name not in data:
            found.append(f"{path} is missing, expected {value!r}")
        elif isinstance(value, Mapping) and isinstance(data[name], Mapping):
            found.extend(differences(value, data[name], f"{path}."))
        elif data[name] != value:
            found.append(f"{path} is {data[name]!r}, expected {value!r}")
    return found


def last_event(dsn: str) -> int:
    """Return the number of the last audit event of a database that other tests may have used already."""
    import psycopg

    with psycopg.connect(dsn) as connection:
        row = connection.execute(assertions_sql.LAST_EVENT).fetchone()
    return 0 if row is None else int(row[0])


def _read_where(where: Mapping[str, Any] | None) -> Mapping[str, Any]:
    __tracebackhide__ = True
    if where is not None and not isinstance(where, Mapping):
        raise pytest.UsageError(f'assert_sent: where={where!r} must be fields and values, such as {{"order_id": 7}}')
    return dict(load_payload(dump_payload(dict(where or {}))))  # as JSON, in which commands are stored
