"""Every combination of failure, compensation, operator and crash, played on a real bus beside the model of the rules.

All scenarios of saga_model are processes of one batch, and go on side by side: each round claims what is due, ends each
attempt as its script says, and lets operators, cancels, sweeps and routers do their part.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg
import pytest

from commandbus import BusinessRuleError, PermanentCommandError, TransientCommandError
from commandbus._core.queue_sql import Claimed
from commandbus.auditor import audit, format_violations
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessReplyRouter, ProcessResponse
from tests.integration.process_kit import Hand, make_manager, open_hand, operators
from tests.integration.saga_model import PATH, REFUSED, UNDO, Expected, Scenario, expected, scenarios
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

MOST_ROUNDS = 100
ENDS: dict[str, Any] = {
    "ok": {"done": True},
    "busy": TransientCommandError("BUSY", "try again"),
    "broken": PermanentCommandError("BROKEN", "out of order"),
    "rule": BusinessRuleError(*REFUSED),
}
LIVE = """
    SELECT p.ordinal, p.process_id, c.command_id, c.step, c.visit, c.compensates IS NOT NULL, c.status,
           r.command_id IS NOT NULL
      FROM commandbus.process p
      JOIN commandbus.command c ON c.process_id = p.process_id
      LEFT JOIN commandbus.reply r ON r.command_id = c.command_id
     WHERE p.batch_id = %s AND (c.status IN ('PENDING', 'IN_TROUBLESHOOTING_QUEUE') OR r.command_id IS NOT NULL)"""
PROCESSES = """
    SELECT ordinal, status, error_code, error_message, command_id, undo::text, state -> 'results'
      FROM commandbus.process WHERE batch_id = %s ORDER BY ordinal"""
COMMANDS = """
    SELECT p.ordinal, c.command_id, c.step, c.visit, c.compensates, c.status, c.error_code, c.error_message,
           (SELECT array_agg(e.type ORDER BY e.event_id) FROM commandbus.event e WHERE e.command_id = c.command_id)
      FROM commandbus.process p JOIN commandbus.command c ON c.process_id = p.process_id
     WHERE p.batch_id = %s ORDER BY p.ordinal, c.created_at, c.command_id"""


class Step(StrEnum):
    BOOK = "Book"
    PAY = "Pay"
    NOTIFY = "Notify"
    SHIP = "Ship"
    UNBOOK = "Unbook"
    REFUND = "Refund"
    RECALL = "Recall"


@dataclass
class TripState:
    results: int = 0


class TripProcess(BaseProcessManager):
    """Goes the path of the model, counting results."""

    process_type = "Trip"
    domain = "trips"
    state_class = TripState
    step_class = Step

    def get_first_step(self, state: TripState) -> str:
        return PATH[0]

    def build_command(self, step: Step, state: TripState) -> ProcessCommand:
        return ProcessCommand(step, {"after": state.results})

    def update_state(self, state: TripState, step: Step, response: ProcessResponse) -> None:
        state.results += 1

    def get_next_step(self, current_step: Step, response: ProcessResponse, state: TripState) -> str | None:
        return PATH[state.results] if state.results < len(PATH) else None

    def get_compensation_step(self, step: Step) -> str | None:
        return UNDO.get(step)


@dataclass
class Player:
    """Carries the scripts out, a round at a time."""

    bench: Bench
    manager: Any
    hand: Hand
    is_routed: bool
    batch_id: UUID
    table: list[Scenario]
    words: dict[UUID, Iterator[str]] = field(default_factory=dict)  # what is still to happen to each command
    next_word: dict[UUID, str] = field(default_factory=dict)
    undos: Counter[int] = field(default_factory=Counter)
    replies: Counter[UUID] = field(default_factory=Counter)
    crashed: list[Claimed] = field(default_factory=list)

    async def play(self) -> None:
        for _ in range(MOST_ROUNDS):
            while await self.decide():
                pass
            if not await self.look():
                return
            await self.work()
        raise AssertionError(f"not at an end after {MOST_ROUNDS} rounds")

    async def look(self) -> list[Any]:
        """See what is live, give each new command its script, and check that no process has two."""
        rows = await (await self.hand.conn.execute(LIVE, (self.batch_id,))).fetchall()
        assert max(Counter(row[0] for row in rows).values(), default=1) == 1
        for ordinal, _, command_id, step, visit, is_undo, _, _ in rows:
            if command_id not in self.words:
                place = self.undos[ordinal] if is_undo else place_of(step, visit)
                self.undos[ordinal] += is_undo
                self.words[command_id] = iter(self.table[ordinal].script(place, is_undo=is_undo))
                self.advance(command_id)
        return rows

    def advance(self, command_id: UUID) -> None:
        self.next_word[command_id] = next(self.words[command_id], "")

    async def decide(self) -> bool:
        """What operators do, and those who cancel what nobody has; returns whether they did anything."""
        tsq = operators(self.bench) if self.is_routed else operators(self.bench, self.manager)
        acted = False
        for _, process_id, command_id, _, _, _, status, is_answered in await self.look():
            word = self.next_word[command_id]
            acted = acted or word in ("answered", "cancel") or word.startswith("op:")
            if word == "answered" and is_answered:
                assert await self.manager.cancel_process(process_id, operator="bob", reason="no need") is False
                self.advance(command_id)
            elif word == "cancel":
                assert await self.manager.cancel_process(process_id, operator="bob", reason="no need") is True
                self.advance(command_id)
            elif word.startswith("op:"):
                assert status == "IN_TROUBLESHOOTING_QUEUE"
                act = getattr(tsq, f"operator_{word[3:]}")
                await act(command_id, operator="ann", reason="no hope")
                self.advance(command_id)
        return await self.route() > 0 or acted

    async def work(self) -> None:
        """Claim, end each attempt as told, forget those that crash, and let their leases run out."""
        ends, crashed = [], []
        for claimed in await self.hand.claim(10_000):
            word = await self.attempt(claimed)
            if word == "crash":
                crashed.append(claimed)
            else:
                ends.append((claimed, ENDS[word]))
        assert await self.hand.settle(*ends) == set()
        if crashed:
            self.crashed += crashed
            await self.bench.skip(31)
            await self.bench.execute("SELECT commandbus.sweep(%s, NULL)", self.bench.domain)

    async def attempt(self, claimed: Claimed) -> str:
        command_id = claimed.command_id
        if self.next_word[command_id] == "flight":
            assert claimed.process_id is not None
            done = await self.manager.cancel_process(claimed.process_id, operator="bob", reason="no need")
            assert done is False
            self.advance(command_id)
        word = self.next_word[command_id]
        self.advance(command_id)
        return word

    async def route(self) -> int:
        """Count the replies that wait, and apply them; returns how many there were."""
        answered = [row[2] for row in await self.look() if row[7]]
        self.replies.update(answered)
        assert await ProcessReplyRouter([self.manager], self.bench.pool).route() == len(answered)
        return len(answered)


def place_of(step: str, visit: int) -> int:
    """The place in PATH of a step's visit."""
    return [n for n, s in enumerate(PATH) if s == step][visit - 1]


@pytest.mark.parametrize(
    "is_routed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["manager here", "manager elsewhere"]
)
@pytest.mark.parametrize("is_full", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["typical", "full"])
async def test_every_saga_ends_as_the_rules_say(bench: Bench, is_routed: bool, is_full: bool) -> None:
    table = list(scenarios(is_routed=is_routed, is_full=is_full))
    manager = make_manager(bench, TripProcess)
    batch_id = await bench.bus.create_process_batch(bench.domain, len(table))
    await manager.start_many([{} for _ in table], batch_id)
    async with open_hand(bench, *([] if is_routed else [manager])) as hand:
        player = Player(bench, manager, hand, is_routed, batch_id, table)
        await player.play()
        late = await hand.settle(*[(claimed, {"too": "late"}) for claimed in player.crashed])
        assert late == {claimed.seq for claimed in player.crashed}
    found = await read(bench, batch_id, player.replies)
    wanted = [plain(expected(scenario), is_routed) for scenario in table]
    wrong = {str(s): (f, w) for s, f, w in zip(table, found, wanted, strict=True) if f != w}
    assert not wrong, f"{len(wrong)} of {len(table)} scenarios, such as {next(iter(wrong.items()))}"
    async with await psycopg.AsyncConnection.connect(bench.dsn) as conn:
        violations = await audit(conn, liveness=True, domains=[bench.domain])
    assert not violations, format_violations(violations)
    batch = await bench.bus.get_batch(bench.domain, batch_id)
    ended = Counter(expected(scenario).status for scenario in table)
    assert batch.status.is_final
    assert batch.completed_count == ended["COMPLETED"] + ended["COMPENSATED"]
    assert batch.canceled_count == ended["FAILED"] + ended["CANCELED"]


def plain(want: Expected, is_routed: bool) -> tuple[Any, ...]:
    """The expectation in the shape of what read() finds."""
    results = sum(s.undoes is None and s.status == "COMPLETED" for s in want.sent)
    sent = [
        (s.step, s.visit, s.undoes, s.status, s.error, [*s.events, *["LATE_OUTCOME_DROPPED"] * s.late],
         s.replies if is_routed else 0)
        for s in want.sent
    ]  # fmt: skip
    return (want.status, want.error, results, sent)


async def read(bench: Bench, batch_id: UUID, replies: Counter[UUID]) -> list[tuple[Any, ...]]:
    """What the database has of each process, in the order of the table."""
    sent: dict[int, list[Any]] = {}
    places: dict[UUID, int] = {}
    for ordinal, command_id, step, visit, compensates, status, code, message, events in await bench.execute(
        COMMANDS, batch_id
    ):
        mine = sent.setdefault(ordinal, [])
        places[command_id] = len(mine)
        undoes = None if compensates is None else places[compensates]
        error = None if code is None else (code, message)
        mine.append((step, visit, undoes, status, error, events, replies[command_id]))
    found = []
    for ordinal, status, code, message, command_id, undo, results in await bench.execute(PROCESSES, batch_id):
        assert (command_id, undo) == (None, None)
        found.append((status, (code, message), results, sent[ordinal]))
    return found
