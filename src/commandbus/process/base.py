"""The process manager: what its author writes, and how processes start."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from commandbus._core.chunks import CHUNK, store_in_chunks
from commandbus._core.connection import Connection, Pool, one_statement, transaction
from commandbus._core.process_sql import ProcessParams, Started
from commandbus.headers import Headers, dump_headers
from commandbus.payload import check_count, check_id, load_payload
from commandbus.process.advance import call_hook
from commandbus.process.cancelling import cancel_one, make_request
from commandbus.process.decide import BeforeSend, decide_start, hook_failed
from commandbus.process.models import ProcessCommand, ProcessMetadata, ProcessResponse
from commandbus.process.repository import ProcessRepository
from commandbus.process.state import load_state


class _Chunk(NamedTuple):
    """Processes to start; `params`, what the statement takes, when no hook has a say in them."""

    started: Sequence[Started]
    batch_id: UUID | None
    first_ordinal: int | None
    params: dict[str, Any] | None


class BaseProcessManager(ABC):
    """A multi-step process: subclass it, declare its steps, say what each sends and what follows.

    The methods that decide (`create_initial_state` to `get_compensation_step`) are plain and free of side effects:
    they are given all that they need, and may be asked again for the same reply. Steps are given as members of
    `step_class`: annotate them so.
    """

    # Of the class; no ClassVar, which pyright takes for no property of the protocol that the bus asks for.
    process_type: str
    domain: str
    state_class: type[Any]
    step_class: type[StrEnum]

    def __init__(self, pool: Pool | None = None, *, headers: Headers | None = None) -> None:
        self._pool = pool
        self.headers = headers

    def create_initial_state(self, initial_data: dict[str, Any]) -> Any:
        """Make the state of a new process; what it raises reaches the caller of start, and nothing is stored."""
        return load_state(self.state_class, initial_data)

    @abstractmethod
    def get_first_step(self, state: Any) -> str:
        """Return the step to begin with."""

    @abstractmethod
    def build_command(self, step: Any, state: Any) -> ProcessCommand:
        """Return the command that carries out `step`, or that undoes one when `step` is a compensation."""

    def update_state(self, state: Any, step: Any, response: ProcessResponse) -> Any:
        """Take what a step's command returned into the state: change it in place, or return a new one."""
        return None

    @abstractmethod
    def get_next_step(self, current_step: Any, response: ProcessResponse, state: Any) -> str | None:
        """Return the step after `current_step`, None when the process is complete."""

    def get_compensation_step(self, step: Any) -> str | None:
        """Return the step that undoes a completed `step`, None when there is nothing to undo."""
        return None

    async def before_send_commands(self, items: Sequence[BeforeSend], conn: Connection) -> None:
        """Bulk hook before commands are stored, in their transaction. Calls before_send_command for each."""
        for item in items:
            await self.before_send_command(item.process, item.step, item.command_id, item.payload, conn)

    async def before_send_command(  # noqa: B027  a hook: most managers need none
        self, process: ProcessMetadata, step: str, command_id: UUID, payload: dict[str, Any], conn: Connection
    ) -> None:
        """Hook before one command is stored, in its transaction. What it raises fails this process only."""

    @property
    def is_hooked(self) -> bool:
        """Whether one of the two hooks is overridden; without, sending needs no extra round trip."""
        own, base = type(self), BaseProcessManager
        return (
            own.before_send_commands is not base.before_send_commands
            or own.before_send_command is not base.before_send_command
        )

    async def start(
        self, initial_data: dict[str, Any], batch_id: UUID | None = None, conn: Connection | None = None
    ) -> UUID:
        """Start one process and return its id; with `conn` in the caller's transaction.

        Whether the batch exists is not checked, but in one that was cancelled nothing is started any more
        (InvalidOperationError). Raises what create_initial_state raises, and InvalidPayloadError for
        a state that is no JSON; then nothing is stored. What the other methods raise makes the process FAILED.
        """
        started = self._decide(initial_data, None)
        await self._store(self._pack([started], batch_id, None), conn)
        return started[0]

    async def start_many(
        self,
        initial_data: Iterable[dict[str, Any]],
        batch_id: UUID | None = None,
        first_ordinal: int = 0,
        on_progress: Callable[[int], object] | None = None,
        *,
        chunk_size: int = CHUNK,
        conn: Connection | None = None,
    ) -> int:
        """Start any number of processes with bulk writes; returns how many.

        Ordinals count from `first_ordinal`. Each chunk of `chunk_size` is a transaction of its own, after which
        `on_progress(processes started so far)` is called: a run that broke off is resumed from the next ordinal. With
        `conn` all of them are part of the caller's transaction, so that workers see them once it commits, all or none.
        While a chunk is being stored the next one is drawn and decided, never more than that one.
        The same as `start` for each, hooks included; an error of create_initial_state names its ordinal. A batch
        that is cancelled meanwhile ends the run with InvalidOperationError.
        """
        check_count(chunk_size, "chunk_size")
        return await store_in_chunks(
            iter(initial_data),
            chunk_size,
            lambda data, number: self._decide(data, first_ordinal + number),
            lambda started, number: self._pack(started, batch_id, first_ordinal + number),
            lambda chunk: self._store(chunk, conn),
            on_progress,
        )

    async def cancel_process(
        self, process_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection | None = None
    ) -> bool:
        """Cancel one process of this manager, its completed steps undone; with `conn` in the caller's transaction.

        A command that nobody has claimed, that waits for a retry or is parked becomes CANCELED, and the undo steps
        begin: the process ends COMPENSATED, or CANCELED when there is nothing to undo. Returns True.
        A command in flight ends first; returns False. When it succeeds its step is undone with the others; when it
        fails it is not retried but CANCELED, and the others are undone; what a business rule refuses ends the
        process as ever. Should its worker die, the next one runs it again and goes on so; one whose last lease was
        lost waits for an operator, whose complete has it undone as well.
        Whoever just settles, claims or operates on the command is waited for, and goes first.

        Raises ProcessNotFoundError, or InvalidOperationError for a process that has ended, undoes its steps, is to be
        cancelled already, or is of another type.
        """
        async with transaction(self._pool, conn) as own:
            return await cancel_one(own, self, check_id(process_id, "process_id"), make_request(operator, reason))

    def _decide(self, initial_data: dict[str, Any], ordinal: int | None) -> Started:
        try:
            return uuid7(), decide_start(self, self.create_initial_state(initial_data), uuid7())
        except Exception as error:
            if ordinal is not None:
                error.add_note(f"in the initial data of process {ordinal} (counted from 0)")
            raise

    def _pack(self, started: Sequence[Started], batch_id: UUID | None, first_ordinal: int | None) -> _Chunk:
        if batch_id is not None:
            check_id(batch_id, "batch_id")
        params = None if self.is_hooked else self._params(started, batch_id, first_ordinal)
        return _Chunk(started, batch_id, first_ordinal, params)

    def _params(self, started: Sequence[Started], batch_id: UUID | None, first_ordinal: int | None) -> dict[str, Any]:
        if self.headers is not None:
            for send in [decision.send for _, decision in started if decision.send is not None]:
                send.headers = dump_headers(self.headers(send.domain, send.command_type))
        return ProcessParams.start(self.domain, self.process_type, batch_id, first_ordinal, started)

    async def _store(self, chunk: _Chunk, conn: Connection | None) -> None:
        if chunk.params is not None:
            async with one_statement(self._pool, conn) as own:
                await ProcessRepository.start(own, chunk.params)
            return
        async with transaction(self._pool, conn) as own:
            started = await self._hooked(chunk.started, chunk.batch_id, chunk.first_ordinal, own)
            params = self._params(started, chunk.batch_id, chunk.first_ordinal)
            await ProcessRepository.start(own, params)

    async def _hooked(
        self, started: Sequence[Started], batch_id: UUID | None, first_ordinal: int | None, conn: Connection
    ) -> list[Started]:
        items = []
        for number, (process_id, decision) in enumerate(started):
            if (send := decision.send) is not None:
                process = ProcessMetadata(
                    process_id=process_id,
                    domain=self.domain,
                    process_type=self.process_type,
                    status=decision.status,
                    current_step=decision.current_step,
                    state=load_payload(decision.state),
                    batch_id=batch_id,
                    ordinal=None if first_ordinal is None else first_ordinal + number,
                )
                items.append(BeforeSend(process, send.step, send.command_id, send.data))
        errors = await call_hook(self, items, conn)
        return [
            (process_id, hook_failed(d, errors[d.send.command_id]) if d.send and d.send.command_id in errors else d)
            for process_id, d in started
        ]
