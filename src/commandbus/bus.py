"""The command bus: send commands, one or many, and read what became of them."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from commandbus._core.chunks import CHUNK, store_in_chunks
from commandbus._core.command_sql import CommandParams
from commandbus._core.connection import Connection, Pool, one_statement, transaction
from commandbus._core.cursor import MOST_ITEMS, check_limit, dump_cursor, load_command_place, load_cursor
from commandbus.cancelling import cancel_command_batch, cancel_process_batch
from commandbus.errors import BatchNotFoundError, CommandNotFoundError, DuplicateCommandError, InvalidOperationError
from commandbus.headers import Headers, dump_headers
from commandbus.models import (
    AuditEvent,
    BatchCancellation,
    BatchCommand,
    BatchMetadata,
    BatchStatus,
    BatchType,
    CommandMetadata,
    CommandStatus,
    Page,
    SendRequest,
)
from commandbus.payload import (
    MAX_BYTES,
    check_count,
    check_id,
    check_name,
    check_text,
    check_time,
    dump_payload,
    load_payload,
)
from commandbus.process.cancelling import make_request
from commandbus.process.decide import Manager
from commandbus.repositories import batches, commands, workers


class _Chunk(NamedTuple):
    """Commands that were checked, and what stores them."""

    requests: Sequence[SendRequest]
    params: dict[str, Any]


class CommandBus:
    """Sends commands and answers questions about them; `max_payload` is the limit of a payload's JSON in bytes.

    `headers(domain, command_type)` is called for each command that is sent: the texts that it returns travel with it.
    """

    def __init__(self, pool: Pool, *, max_payload: int = MAX_BYTES, headers: Headers | None = None) -> None:
        self._pool = pool
        self._max_payload = max_payload
        self._headers = headers

    async def send(
        self,
        *,
        domain: str,
        command_type: str,
        command_id: UUID,
        data: dict[str, Any],
        correlation_id: UUID | None = None,
        reply_to: str | None = None,
        max_attempts: int | None = None,
        conn: Connection | None = None,
    ) -> UUID:
        """Store a command for any worker of `domain`; returns its id.

        With `conn` it is part of the caller's open transaction. `max_attempts` overrides the workers' retry policy.
        `reply_to` is the address, a name as that of a domain, at which a ReplyQueue finds the command's one reply.
        Raises InvalidPayloadError, InvalidNameError, or DuplicateCommandError for an id that is stored; then nothing
        has changed, and the caller's transaction can go on.
        """
        request = SendRequest(domain, command_type, command_id, data, correlation_id, reply_to, max_attempts)
        await self._enqueue(self._pack([self._ready(request)]), conn)
        return command_id

    async def send_batch(self, requests: Iterable[SendRequest], *, chunk_size: int = CHUNK) -> int:
        """Store many commands, each chunk of `chunk_size` in a transaction of its own; returns how many.

        While a chunk is being stored the next one is drawn and checked, never more than that one.
        Raises DuplicateCommandError for the first id that is stored already; the chunks before it stay.
        """
        check_count(chunk_size, "chunk_size")
        return await store_in_chunks(iter(requests), chunk_size, self._ready, self._pack, self._enqueue)

    async def create_batch(
        self,
        domain: str,
        batch_commands: Sequence[BatchCommand],
        *,
        name: str | None = None,
        custom_data: dict[str, Any] | None = None,
        conn: Connection | None = None,
    ) -> UUID:
        """Store a batch with all its commands in one transaction, all or nothing; returns the batch's id."""
        batch_id = uuid7()
        values = self._batch(batch_id, domain, BatchType.COMMAND, len(batch_commands), name, custom_data)
        async with transaction(self._pool, conn) as own:
            await batches.create(own, values)
            await store_in_chunks(
                (_request(domain, command) for command in batch_commands),
                CHUNK,
                self._ready,
                lambda ready, ordinal: self._pack(ready, ordinal, batch_id),
                lambda chunk: self._enqueue(chunk, own),
            )
        return batch_id

    async def create_process_batch(
        self,
        domain: str,
        total_count: int,
        *,
        name: str | None = None,
        custom_data: dict[str, Any] | None = None,
        conn: Connection | None = None,
    ) -> UUID:
        """Store a batch for `total_count` processes, to be started with its id; returns the id."""
        batch_id = uuid7()
        values = self._batch(batch_id, domain, BatchType.PROCESS, total_count, name, custom_data)
        async with transaction(self._pool, conn) as own:
            await batches.create(own, values)
        return batch_id

    async def get_command(self, command_id: UUID, *, conn: Connection | None = None) -> CommandMetadata:
        """Return one command as it stands. Raises CommandNotFoundError."""
        async with one_statement(self._pool, conn) as own:
            command = await commands.get(own, check_id(command_id))
        if command is None:
            raise CommandNotFoundError(command_id)
        return command

    async def get_batch(self, domain: str | None, batch_id: UUID, *, conn: Connection | None = None) -> BatchMetadata:
        """Recount one batch and return it; with None its domain may be any. Raises BatchNotFoundError."""
        named = None if domain is None else check_name(domain)
        async with transaction(self._pool, conn) as own:
            batch = await batches.get(own, named, check_id(batch_id, "batch_id"))
        if batch is None:
            raise BatchNotFoundError(domain, batch_id)
        return batch

    async def cancel_batch(
        self,
        domain: str,
        batch_id: UUID,
        *,
        operator: str = "unknown",
        reason: str = "",
        processes: Sequence[Manager] = (),
        on_progress: Callable[[int], object] | None = None,
    ) -> BatchCancellation:
        """Cancel what has not run of a batch, in chunks of one transaction each; returns how much that was.

        COMMAND batch: commands that nobody has claimed, retries that wait included, become CANCELED, each with its
        reply. One in flight ends by itself, a parked one waits for its operator.
        PROCESS batch: each open process is cancelled as by `cancel_process`, with its manager out of `processes`.
        Nothing more can be started in the batch (InvalidOperationError), and members that never were are taken off
        its total_count: a batch whose producer died ends so. Starts under way in an open transaction are waited for.
        `on_progress(members cancelled so far)` is called after each chunk. A call that broke off may be repeated.

        Raises BatchNotFoundError, or InvalidOperationError for a batch that has ended or open processes whose manager
        is not given; then nothing was changed.
        """
        batch = await self.get_batch(domain, batch_id)
        if batch.status.is_final:
            raise InvalidOperationError(
                f"batch {batch_id} is {batch.status}; only one that has not ended can be cancelled"
            )
        request = make_request(operator, reason)
        if batch.batch_type is BatchType.COMMAND:
            return await cancel_command_batch(self._pool, batch_id, request, on_progress)
        managers = {manager.process_type: manager for manager in processes}
        return await cancel_process_batch(self._pool, batch_id, request, managers, on_progress)

    async def query_commands(
        self,
        domain: str | None = None,
        status: CommandStatus | None = None,
        command_type: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        conn: Connection | None = None,
    ) -> Page[CommandMetadata]:
        """Return a page of at most `limit` (1 to 1,000) commands that match, newest first.

        Of the two times, which need a time zone, the first is included, the second is not. Commands that are sent
        while one pages come in no later page.
        No call looks at more than some 10,000 commands: where few of many match, a page may be short or empty and
        still have a next_cursor. That is so for COMPLETED ones behind a longer backlog of newer PENDING ones, and for
        PENDING or parked ones among newer others while more than 10,000 are so. While more than 10,000 commands are
        due, those IN_PROGRESS come in the order of the queue instead, longest in it first.
        Raises InvalidCursorError for a cursor that was not a page's, ValueError for a limit or time as said above.
        """
        query = {
            "domain": None if domain is None else check_name(domain, "domain"),
            "command_type": None if command_type is None else check_name(command_type, "command type"),
            "status": None if status is None else str(CommandStatus(status)),
            "created_after": None if created_after is None else check_time(created_after, "created_after"),
            "created_before": None if created_before is None else check_time(created_before, "created_before"),
            "limit": check_limit(limit),
            **load_command_place(cursor, status),
        }
        async with one_statement(self._pool, conn) as own:
            found, (created_at, command_id, seq) = await commands.find(own, query)
        if seq is not None:
            return Page(found, dump_cursor((seq,)))
        return Page(found, None if command_id is None else dump_cursor((created_at, command_id)))

    async def list_batches(
        self,
        domain: str | None = None,
        batch_type: BatchType | None = None,
        status: BatchStatus | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        conn: Connection | None = None,
    ) -> Page[BatchMetadata]:
        """Return a page of at most `limit` (1 to 1,000) batches that match, newest first, their counts as of now.

        Batches that have not ended are recounted for it. No call looks at more than 10,000 batches, nor goes on once it
        has recounted 100,000 members: a page may be short or empty and still have a next_cursor.
        Raises InvalidCursorError for a cursor that was not a page's, ValueError for a limit out of range.
        """
        created_at, batch_id = load_cursor(cursor, (datetime, UUID)) or (None, None)
        query = {
            "domain": None if domain is None else check_name(domain, "domain"),
            "batch_type": None if batch_type is None else str(BatchType(batch_type)),
            "status": None if status is None else str(BatchStatus(status)),
            "limit": check_limit(limit),
            "created_at": created_at,
            "batch_id": batch_id,
        }
        async with transaction(self._pool, conn) as own:
            found, place = await batches.find(own, query)
        return Page(found, None if place is None else dump_cursor(place))

    async def list_batch_commands(
        self,
        batch_id: UUID,
        status: CommandStatus | None = None,
        limit: int = 100,
        cursor: str | None = None,
        *,
        conn: Connection | None = None,
    ) -> Page[CommandMetadata]:
        """Return a page of at most `limit` (1 to 1,000) commands of a COMMAND batch, in the order of their ordinals.

        With a `status` no call looks at more than 10,000 of them: a page may be short or empty and still have a
        next_cursor. A batch of processes, or one that does not exist, has none.
        Raises InvalidCursorError for a cursor that was not a page's, ValueError for a limit out of range.
        """
        (ordinal,) = load_cursor(cursor, (int,)) or (-1,)
        query = {
            "batch_id": check_id(batch_id, "batch_id"),
            "status": None if status is None else str(CommandStatus(status)),
            "limit": check_limit(limit),
            "ordinal": ordinal,
        }
        async with one_statement(self._pool, conn) as own:
            found, last = await commands.of_batch(own, query)
        return Page(found, None if last is None else dump_cursor((last,)))

    async def count_batch_commands(self, batch_id: UUID, *, conn: Connection | None = None) -> dict[CommandStatus, int]:
        """Count the commands of a COMMAND batch by status; those in flight count as PENDING.

        Quicker than `get_batch`, which stores what it has counted: some 30 ms for 100,000. A status that none has is
        left out; a batch of processes, or one that does not exist, has none.
        """
        async with transaction(self._pool, conn) as own:
            return await commands.count_of_batch(own, check_id(batch_id, "batch_id"))

    async def get_audit_trail(self, command_id: UUID, *, conn: Connection | None = None) -> list[AuditEvent]:
        """Return a command's audit trail, oldest event first; empty when there is no such command."""
        async with one_statement(self._pool, conn) as own:
            return await commands.audit_trail(own, check_id(command_id))

    async def get_audit_trails(
        self, command_ids: Sequence[UUID], *, conn: Connection | None = None
    ) -> dict[UUID, list[AuditEvent]]:
        """Return the audit trails of at most 1,000 commands, as get_audit_trail gives each; none for an unknown id."""
        if len(command_ids) > MOST_ITEMS:
            raise ValueError(f"at most {MOST_ITEMS:,} audit trails at once, not {len(command_ids):,}: ask in portions")
        async with one_statement(self._pool, conn) as own:
            return await commands.audit_trails(own, [check_id(command_id) for command_id in command_ids])

    async def is_handled(self, domain: str, command_type: str, *, conn: Connection | None = None) -> bool:
        """Whether some live worker handles this command type."""
        async with one_statement(self._pool, conn) as own:
            return await workers.handles(own, check_name(domain), check_name(command_type, "command type"))

    async def now(self, *, conn: Connection | None = None) -> datetime:
        """Return the bus's clock, by which commands are stamped, due and leased: never this machine's."""
        async with one_statement(self._pool, conn) as own:
            return await commands.now(own)

    def _payload(self, request: SendRequest) -> str:
        """Check a request; returns its data as JSON text."""
        check_name(request.domain, "domain")
        check_name(request.command_type, "command type")
        if request.reply_to is not None:
            check_name(request.reply_to, "reply_to")  # a process's own address has a colon, so nobody can write it
        check_id(request.command_id)
        if request.correlation_id is not None:
            check_id(request.correlation_id, "correlation_id")
        if request.max_attempts is not None:
            check_count(request.max_attempts, "max_attempts")
        return dump_payload(request.data, limit=self._max_payload)

    def _ready(self, request: SendRequest, _: int = 0) -> tuple[SendRequest, str]:
        return request, self._payload(request)

    def _pack(self, ready: Sequence[tuple[SendRequest, str]], first: int = 0, batch_id: UUID | None = None) -> _Chunk:
        requests, payloads = zip(*ready, strict=True)
        place = None if batch_id is None else first
        return _Chunk(requests, CommandParams.new(requests, payloads, batch_id, place, self._headers_of(requests)))

    def _headers_of(self, requests: Sequence[SendRequest]) -> list[str | None] | None:
        if self._headers is None:
            return None
        return [dump_headers(self._headers(r.domain, r.command_type)) for r in requests]

    def _batch(
        self,
        batch_id: UUID,
        domain: str,
        batch_type: BatchType,
        total_count: int,
        name: str | None,
        custom_data: dict[str, Any] | None,
    ) -> dict[str, Any]:
        limit = self._max_payload
        return {
            "batch_id": batch_id,
            "domain": check_name(domain, "domain"),
            "batch_type": str(batch_type),
            "name": None if name is None else check_text(name, "name"),
            "custom_data": None if custom_data is None else dump_payload(custom_data, limit=limit, what="custom_data"),
            "total_count": check_count(total_count, "total_count", 0),
        }

    async def _enqueue(self, chunk: _Chunk, conn: Connection | None = None) -> None:
        try:
            async with one_statement(self._pool, conn) as own:
                await commands.enqueue(own, chunk.params)
        except psycopg.errors.UniqueViolation:
            await self._raise_duplicate(chunk.requests, conn)
            raise

    async def _raise_duplicate(self, requests: Sequence[SendRequest], conn: Connection | None) -> None:
        """Tell which of `requests` was refused, and whether the stored data is the same."""
        seen: set[UUID] = set()
        for request in requests:
            if request.command_id in seen:
                raise DuplicateCommandError(request.command_id)
            seen.add(request.command_id)
        async with transaction(self._pool, conn) as own:
            stored = await commands.stored_payloads(own, [r.command_id for r in requests])
        for request in requests:
            if request.command_id in stored:
                same = load_payload(stored[request.command_id]) == request.data
                raise DuplicateCommandError(request.command_id, same) from None


def _request(domain: str, command: BatchCommand) -> SendRequest:
    return SendRequest(
        domain,
        command.command_type,
        command.command_id,
        command.data,
        command.correlation_id,
        command.reply_to,
        command.max_attempts,
    )
