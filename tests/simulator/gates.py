"""Connections that stop before each statement, until the schedule lets their user go on.

Everything that the bus does with a connection goes through `wait`, so that any of its steps can be stopped inside its
transaction, without the bus knowing: crash there, lose the server's answer, or let others go first.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection, waiting

SOON = 0.02  # seconds


class CrashedError(BaseException):
    """The process that was at work is gone. Nothing of the bus may catch it."""


class AnswerLostError(psycopg.errors.AdminShutdown):
    """The server did what it was asked, and the answer was lost on the way."""


class Gate:
    """Where one actor waits for its next turn, inside of a step. `is_open` lets it run through."""

    def __init__(self) -> None:
        self.is_open = True
        self.loses_answer = False
        self.waiting: asyncio.Future[None] | None = None
        self.arrived = asyncio.Event()  # at the gate, or at the end of the step

    async def pause(self) -> None:
        """Wait for a turn. Raises CrashedError when there comes none."""
        if self.is_open:
            return
        self.waiting = asyncio.get_running_loop().create_future()
        self.arrived.set()
        try:
            await self.waiting
        finally:
            self.waiting = None

    def answered(self) -> None:
        """Raise AnswerLostError if this answer is to be lost."""
        if self.loses_answer:
            self.loses_answer = False
            raise AnswerLostError("simulated: the answer was lost")

    def go_on(self) -> None:
        """Give the actor one turn."""
        if self.waiting is None:
            raise RuntimeError("nobody waits at this gate")
        self.arrived.clear()
        self.waiting.set_result(None)

    def crash(self) -> None:
        """End the step where it is; what it has open is rolled back."""
        if self.waiting is None:
            raise RuntimeError("nobody waits at this gate")
        self.is_open = True
        self.arrived.clear()
        self.waiting.set_exception(CrashedError())


class QuickConnection(AsyncConnection[Any]):
    """A connection that does its round trips without the event loop, as long as the server answers soon.

    Nothing else is to go on meanwhile, and the loop costs more than most statements.
    """

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Do one round trip; one that takes long, perhaps since it waits for a lock, lets others go on."""
        try:
            return waiting.wait(gen, self.pgconn.socket, interval=SOON, timeout=SOON)
        except psycopg.errors._WaitTimeout:
            return await super().wait(gen, *args, **options)


class GatedConnection(QuickConnection):
    """The same, asking its gate before each round trip."""

    gate: Gate | None = None

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Do one round trip, once it is this connection's turn."""
        if self.gate is None or _is_harmless(gen):
            return await super().wait(gen, *args, **options)
        try:
            await self.gate.pause()
        except CrashedError as crash:
            if gen.__name__ == "_exit_gen":  # the driver counts its blocks: this one is to be left by a rollback
                block = gen.gi_frame.f_locals["self"]
                await super().wait(block._exit_gen(type(crash), crash, None))
            raise
        answer = await super().wait(gen, *args, **options)
        self.gate.answered()
        return answer


def _is_harmless(gen: Any) -> bool:
    """Whether it begins a transaction or rolls one back: nothing that others could see."""
    rolls_back = gen.__name__ == "_exit_gen" and gen.gi_frame.f_locals["exc_val"] is not None
    return rolls_back or gen.__name__ == "_enter_gen"


class OneConnection:
    """What the bus needs of a pool: one connection, in autocommit mode, for one user at a time."""

    name = "simulated"

    def __init__(self, conn: GatedConnection, gate: Gate) -> None:
        self.conn = conn
        self.gate = gate
        conn.gate = gate

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[GatedConnection]:
        """Lend it."""
        yield self.conn
