"""Bad input, drawn by a seed: what a program may try to send, and what a handler may end with."""

import asyncio
import datetime
import decimal
import logging
import math
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from commandbus import (
    BatchCommand,
    BusinessRuleError,
    CommandBus,
    HandlerRegistry,
    PermanentCommandError,
    RetryPolicy,
    SendRequest,
    TransientCommandError,
    Worker,
)
from commandbus.auditor import Violation, audit
from commandbus.errors import CommandBusError, CommandNotFoundError
from commandbus.migrate import migrate
from pytest_commandbus.postgres.server import EmbeddedPostgres

DOMAIN = "hostile"
REFUSALS = (CommandBusError, TypeError, ValueError)
ROUND = 200  # inputs at a time, half of them through a handler
PATIENCE = 60.0  # seconds that a command may take to its recorded outcome
ENDS = ("COMPLETED", "FAILED", "IN_TROUBLESHOOTING_QUEUE")

NAMES = [
    *[
        "x; DROP TABLE t; --",
        "a-b",
        "\N{FULLWIDTH LATIN SMALL LETTER X}",
        "x" * 63,
        "x" * 64,
        "",
        " ",
        "a\0b",
        "\ud800",
    ],
    *[
        "\ud800",
        "../x",
        "%s",
        "{}",
        "'",
        '"',
        "\r\n",
        "process:Order",
        "commandbus.command",
        "\u202egnp",
        "Ship",
        "Ship",
    ],
]
POISONS = [
    *[math.nan, math.inf, -math.inf, "\0", "a\0b", "\ud800", "x\udfff", b"", b"x", bytearray(b"y"), {1}, frozenset()],
    *[10**4300, -(10**5000), object(), object, len, 1j, decimal.Decimal("1.5"), uuid.UUID(int=7), range(3)],
    *[datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC), {1: 2}, {None: 1}, {b"k": 1}, {("a", 1): 1}, {"\0": 1}],
    *[{"\ud800": 1}, {1.5: 1}, {True: 1}],
]
HARMLESS = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    0.1,
    -0.0,
    1e308,
    5e-324,
    "",
    "é",
    "\u2028",
    "a" * 5_000,
    "0",
]
NUMBERS = [None, 0, 1, -1, 3, 2**31, 10**30, math.nan, math.inf, True, "3", 2.5, b"1"]


class MuteError(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class OddDict(dict[str, Any]):
    """A dict whose content cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("no items")


def odd_value(rng: random.Random, depth: int = 3) -> Any:
    """Draw a value, more or less valid, of any shape."""
    kind = rng.random()
    if depth and kind < 0.25:
        return [odd_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if depth and kind < 0.55:
        return {odd_text(rng): odd_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    if kind < 0.7:
        return rng.choice(POISONS)
    return odd_text(rng) if kind < 0.85 else rng.choice(HARMLESS)


def odd_text(rng: random.Random) -> str:
    """Draw a text with any code points, lone surrogates and U+0000 too."""
    return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) for _ in range(rng.randrange(12)))


def odd_data(rng: random.Random) -> Any:
    """Draw what is sent as data: as a rule a dict, now and then too deep, too large or endless."""
    kind = rng.random()
    if kind < 0.06:
        return rng.choice((_deep(99), _deep(101), _deep(2_000), _endless(), {"big": "x" * 3_000_000}))
    if kind < 0.8:
        return {odd_text(rng): odd_value(rng) for _ in range(rng.randrange(4))}
    return odd_value(rng)


def odd_end(rng: random.Random) -> Any:
    """End as no handler should: return what is no result, or raise what says nothing, or too much."""
    if rng.random() < 0.5:
        return OddDict(a=1) if rng.random() < 0.05 else odd_data(rng)
    return _raise(rng)


def _raise(rng: random.Random) -> NoReturn:
    text = rng.choice((odd_text(rng), "\0" * 10_000, "é" * 100_000))
    announced = rng.choice((TransientCommandError, PermanentCommandError, BusinessRuleError))
    raise rng.choice(
        (
            announced(odd_text(rng), text),
            rng.choice((Exception, ValueError, KeyError, OSError, SystemExit))(odd_value(rng)),
            MuteError(),
            ExceptionGroup("several", [ValueError(text), MuteError()]),
            asyncio.CancelledError(),
        )
    )


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"in": value}
    return value


def _endless() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def play_share(seed: int, count: int, seconds: float) -> tuple[int, list[Violation]]:
    """Give a bus of its own so many bad inputs, or for so long; returns how many, and what was wrong."""
    with EmbeddedPostgres() as server:
        migrate(server.dsn())
        return asyncio.run(_play(server.dsn(), random.Random(seed), count, time.monotonic() + seconds))


async def _play(dsn: str, rng: random.Random, count: int, deadline: float) -> tuple[int, list[Violation]]:
    for name in ("commandbus", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    async with AsyncConnectionPool(dsn, min_size=4, max_size=8) as pool:
        inputs = _Inputs(pool, rng)
        worker = Worker(pool, domain=DOMAIN, handler_registry=inputs.registry, retry_policy=RetryPolicy(2, [0.01]))
        working = asyncio.create_task(worker.run())
        try:
            while inputs.given < count and time.monotonic() < deadline:
                if working.done():
                    working.result()
                await inputs.play_round(min(ROUND, count - inputs.given))
        finally:
            await worker.stop()
            await working
        async with pool.connection() as conn:
            return inputs.given, [*inputs.wrong, *await audit(conn)]


class _Inputs:
    """Draws inputs, gives them to the bus and looks at what it made of them."""

    def __init__(self, pool: AsyncConnectionPool[Any], rng: random.Random) -> None:
        self.given = 0
        self.wrong: list[Violation] = []
        self.registry = HandlerRegistry()
        self.registry.add(DOMAIN, "End", self._handle)
        self._bus = CommandBus(pool)
        self._rng = rng
        self._entries = (self._send, self._send, self._send_many, self._create_batch, self._ask, self._count)

    async def play_round(self, most: int) -> None:
        """Half of them at the entries, half as ends of handlers, which must all have an outcome."""
        for _ in range(most - most // 2):
            self.given += 1
            await self._rng.choice(self._entries)()
        ids = [uuid.uuid4() for _ in range(most // 2)]
        data = [{"seed": self._rng.getrandbits(32)} for _ in ids]
        await self._bus.send_batch([SendRequest(DOMAIN, "End", i, d) for i, d in zip(ids, data, strict=True)])
        deadline = time.monotonic() + PATIENCE
        for command_id, sent in zip(ids, data, strict=True):
            while (await self._bus.get_command(command_id)).status not in ENDS:
                if time.monotonic() > deadline:
                    self._tell(command_id, f"no outcome after {PATIENCE:g} s of a handler that ended as {sent}")
                    return
                await asyncio.sleep(0.01)
            await self._bus.get_audit_trail(command_id)  # can be read, whatever is in it
            self.given += 1

    async def _handle(self, command: Any, context: Any) -> Any:
        return odd_end(random.Random(command.data["seed"]))

    async def _refused(self, call: Callable[[], Awaitable[Any]]) -> bool:
        """Whether it raised, and then what is documented, with words."""
        try:
            await call()
        except REFUSALS as error:
            if not str(error):
                self._tell(None, f"{type(error).__name__} without a word")
            return True
        except Exception as error:  # what nobody expects of the bus is what is looked for
            self._tell(None, f"{type(error).__name__}: {error!s:.500}")
            return True
        return False

    async def _send(self) -> None:
        rng = self._rng
        fields: dict[str, Any] = {
            "domain": rng.choice((DOMAIN, DOMAIN, *NAMES)),
            "command_type": rng.choice(("Ship", *NAMES)),
            "command_id": rng.choice((uuid.uuid4(), uuid.uuid4(), uuid.uuid4(), rng.choice(NAMES), None)),
            "data": odd_data(rng),
            "correlation_id": rng.choice((None, uuid.uuid4(), None, rng.choice(NAMES))),
            "reply_to": rng.choice((None, None, rng.choice(NAMES))),
            "max_attempts": rng.choice((None, None, rng.choice(NUMBERS))),
        }
        if await self._refused(lambda: self._bus.send(**fields)):
            await self._is_absent(fields["command_id"])
            return
        stored = await self._bus.get_command(fields["command_id"])
        if stored.data != fields["data"] or (stored.domain, stored.command_type) != (
            fields["domain"],
            fields["command_type"],
        ):
            self._tell(stored.command_id, "is not stored as it was sent")

    async def _send_many(self) -> None:
        rng = self._rng
        requests = [
            SendRequest(DOMAIN, rng.choice(("Ship", "Ship", *NAMES)), uuid.uuid4(), odd_data(rng)) for _ in range(3)
        ]
        await self._all_or_nothing(lambda: self._bus.send_batch(requests), [r.command_id for r in requests])

    async def _create_batch(self) -> None:
        rng = self._rng
        commands = [BatchCommand("Ship", uuid.uuid4(), odd_data(rng)) for _ in range(rng.randrange(1, 3))]
        name, about = rng.choice((None, rng.choice(NAMES))), rng.choice((None, odd_data(rng)))
        await self._all_or_nothing(
            lambda: self._bus.create_batch(DOMAIN, commands, name=name, custom_data=about),
            [c.command_id for c in commands],
        )

    async def _all_or_nothing(self, call: Callable[[], Awaitable[Any]], ids: list[UUID]) -> None:
        is_refused = await self._refused(call)
        for command_id in ids:
            if is_refused:
                await self._is_absent(command_id)
            else:
                await self._bus.get_command(command_id)

    async def _ask(self) -> None:
        rng = self._rng
        name, number = rng.choice(NAMES), rng.choice(NUMBERS)
        await self._refused(
            lambda: self._bus.query_commands(domain=name, command_type=name, limit=number, cursor=odd_text(rng))
        )
        await self._refused(lambda: self._bus.list_batches(name, limit=number))
        await self._refused(lambda: self._bus.get_audit_trail(name))  # type: ignore[arg-type]
        await self._refused(lambda: self._bus.cancel_batch(DOMAIN, name, operator=name))  # type: ignore[arg-type]

    async def _count(self) -> None:
        rng = self._rng
        name, number = rng.choice((None, *NAMES)), rng.choice(NUMBERS)
        await self._refused(
            lambda: self._bus.create_process_batch(DOMAIN, number, name=name, custom_data=odd_data(rng))
        )

    async def _is_absent(self, command_id: Any) -> None:
        if isinstance(command_id, UUID):
            try:
                await self._bus.get_command(command_id)
            except CommandNotFoundError:
                return
            self._tell(command_id, "is stored though it was refused")

    def _tell(self, command_id: UUID | None, what: str) -> None:
        self.wrong.append(Violation("BAD INPUT", str(command_id), f"{what} (input {self.given})"))
