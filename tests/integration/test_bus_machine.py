"""Public operations of the bus in any order, on the real server beside a model on paper, with the audit at the end.

Two workers are moved by hand: they claim, settle in time or too late, release, renew, or are never heard of again.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    BatchCommand,
    BusinessRuleError,
    DuplicateCommandError,
    InvalidOperationError,
    PermanentCommandError,
    ReceivedReply,
    ReplyQueue,
    RetryPolicy,
    SendRequest,
    TransientCommandError,
    TroubleshootingQueue,
    migrate,
)
from commandbus._core.queue_sql import Claimed
from commandbus.auditor import audit, format_violations
from commandbus.outcome import completed, failed
from commandbus.repositories import queue
from commandbus.settlement import Finished
from tests.integration.bus_model import MAX_ATTEMPTS, PARKED, RETRY_LEASES, TERMINAL, BusModel, Paper
from tests.integration.process_kit import Hand, open_hand
from tests.integration.worker_kit import Bench, make_clock

LEASE = 100_000.0  # seconds; so long that real time never ends one
POLICY = RetryPolicy(max_attempts=MAX_ATTEMPTS, backoff_schedule=[RETRY_LEASES * LEASE])
ENDS: dict[str, Any] = {
    "ok": {"done": True},
    "busy": TransientCommandError("BUSY", "try again"),
    "broken": PermanentCommandError("BROKEN", "out of order"),
    "rule": BusinessRuleError("REFUSED", "against the rules"),
}
FOUND = """
    SELECT c.command_id, c.status,
           EXISTS (SELECT FROM commandbus.queue q WHERE q.command_id = c.command_id AND q.worker_id IS NOT NULL),
           (SELECT array_agg(e.type ORDER BY e.event_id) FROM commandbus.event e WHERE e.command_id = c.command_id)
      FROM commandbus.command c WHERE c.domain = %s"""
EVENTS = {
    *("SENT", "RECEIVED", "COMPLETED", "RETRY_SCHEDULED", "MOVED_TO_TSQ", "BUSINESS_RULE_FAILED", "RELEASED"),
    *("CANCELED", "OPERATOR_RETRY", "OPERATOR_CANCEL", "OPERATOR_COMPLETE", "LEASE_EXTENDED", "LATE_OUTCOME_DROPPED"),
}
WHICH = st.integers(0, 1_000)  # taken modulo of what there is
HANDS = st.integers(0, 1)


@dataclass
class Stage:
    """What all runs of the machine share: a loop, and a pool on it."""

    runner: asyncio.Runner
    dsn: str
    pool: AsyncConnectionPool[Any]
    events: Counter[str] = field(default_factory=Counter)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)


class BusMachine(RuleBasedStateMachine):
    """Does to the bus and to the model the same."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage, self.run, self.stack = stage, stage.run, AsyncExitStack()
        self.bench = Bench(stage.dsn, stage.pool)
        self.model = BusModel()
        self.tsq = TroubleshootingQueue(stage.pool)
        self.replies = ReplyQueue(stage.pool, self.bench.domain)
        self.hands: list[Hand] = [self.run(self.stack.enter_async_context(open_hand(self.bench))) for _ in range(2)]
        self.held: list[tuple[Hand, Claimed]] = []
        self.received: list[ReceivedReply] = []
        self.answered: dict[UUID, str] = {}
        self.batches: list[UUID] = []

    # sending

    @rule(
        many=st.lists(st.tuples(st.booleans(), st.sampled_from([None, 1, 2])), min_size=1, max_size=5),
        how=st.sampled_from(["send", "send_batch", "create_batch", "rolled back"]),
    )
    def send(self, many: list[tuple[bool, int | None]], how: str) -> None:
        papers = [Paper(uuid4(), {"n": n}, most, is_asked) for n, (is_asked, most) in enumerate(many)]
        self.run(self._send(papers, how))
        if how != "rolled back":
            self.model.add(papers)

    async def _send(self, papers: list[Paper], how: str) -> None:
        domain, bus = self.bench.domain, self.bench.bus
        if how == "create_batch":
            commands = [
                BatchCommand(
                    "Ping", p.command_id, p.data, reply_to=domain if p.has_reply else None, max_attempts=p.max_attempts
                )
                for p in papers
            ]
            batch = await bus.create_batch(domain, commands)
            self.batches.append(batch)
            for paper in papers:
                paper.batch = batch
            return
        requests = [
            SendRequest(
                domain=domain,
                command_type="Ping",
                command_id=p.command_id,
                data=p.data,
                reply_to=domain if p.has_reply else None,
                max_attempts=p.max_attempts,
            )
            for p in papers
        ]
        if how == "send_batch":
            assert await bus.send_batch(requests) == len(papers)
            return
        async with self.bench.pool.connection() as conn, conn.transaction(force_rollback=how == "rolled back"):
            for paper in papers:
                await bus.send(
                    domain=domain,
                    command_type="Ping",
                    command_id=paper.command_id,
                    data=paper.data,
                    reply_to=domain if paper.has_reply else None,
                    max_attempts=paper.max_attempts,
                    conn=conn,
                )

    @precondition(lambda self: self.model.commands)
    @rule(which=WHICH, is_same=st.booleans())
    def send_again(self, which: int, is_same: bool) -> None:
        known = self._command(which)
        with pytest.raises(DuplicateCommandError) as caught:
            self.run(self.bench.send("Ping", known.data if is_same else {"other": 1}, command_id=known.command_id))
        assert caught.value.same_payload is is_same

    # workers

    @rule(hand=HANDS, ends=st.lists(st.sampled_from([*sorted(ENDS), "hold", "hold"]), min_size=1, max_size=6))
    def work(self, hand: int, ends: list[str]) -> None:
        """Claim commands, and settle those in one group that are not held."""
        claims = self._claim(self.hands[hand], len(ends))
        self.held += [(self.hands[hand], claimed) for claimed, end in zip(claims, ends, strict=False) if end == "hold"]
        self._end(self.hands[hand], [(c, end) for c, end in zip(claims, ends, strict=False) if end != "hold"])

    def _claim(self, hand: Hand, limit: int) -> list[Claimed]:
        claimable = self.model.claimable()
        claims = self.run(hand.claim(limit, lease=LEASE))
        assert len(claims) == min(limit, len(claimable))
        for claimed in claims:
            assert claimed.command_id in claimable
            paper = self.model.claim(claimed.command_id)
            found = (claimed.epoch, claimed.failures, claimed.lost_leases, claimed.max_attempts)
            assert found == (paper.epoch, paper.failures, paper.lost, paper.max_attempts)
        return claims

    @precondition(lambda self: self.held)
    @rule(
        which=WHICH, ends=st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=3), is_sent_again=st.booleans()
    )
    def settle_held(self, which: int, ends: list[str], is_sent_again: bool) -> None:
        """Settle what was claimed before, in time or too late; an answer that was lost is asked for again."""
        hand = self.held[which % len(self.held)][0]
        mine = [claimed for holder, claimed in self.held if holder is hand][: len(ends)]
        self.held = [(holder, claimed) for holder, claimed in self.held if claimed not in mine]
        latest = {claimed.command_id: claimed for claimed in mine}  # one outcome a command in a group
        self._end(hand, list(zip(latest.values(), ends, strict=False)), is_sent_again=is_sent_again)

    def _end(self, hand: Hand, pairs: list[tuple[Claimed, str]], *, is_sent_again: bool = False) -> None:
        lost = {c.seq for c, end in pairs if not self.model.settle(c.command_id, c.epoch, end)}
        for _ in range(1 + (is_sent_again and not lost)):
            assert self.run(self._settle(hand, pairs)) == lost

    async def _settle(self, hand: Hand, pairs: list[tuple[Claimed, str]]) -> set[int]:
        finished = []
        for claimed, word in pairs:
            end = ENDS[word]
            if isinstance(end, Exception):
                outcome = failed(end, claimed.failures, claimed.max_attempts, POLICY, {})
            else:
                outcome = completed(end, claimed.failures, {})
            finished.append(Finished(claimed, outcome))
        return await hand.settlement.settle(hand.conn, finished)

    @precondition(lambda self: self.held)
    @rule(which=WHICH, leases=st.integers(0, 3))
    def release_or_renew(self, which: int, leases: int) -> None:
        hand, claimed = self.held[which % len(self.held)]
        claim = (hand.worker_id, [claimed])
        if leases == 0:
            self.model.release(claimed.command_id, claimed.epoch)
            self.run(queue.release(hand.conn, self.bench.domain, *claim))
        else:
            is_mine = self.model.renew(claimed.command_id, claimed.epoch, leases)
            ends = self.run(queue.renew(hand.conn, *claim, leases * LEASE, audited=True))
            assert set(ends) == ({claimed.seq} if is_mine else set())

    @rule(is_swept=st.booleans())
    def leases_end(self, is_swept: bool) -> None:
        self.model.now += 1
        self.run(self.bench.skip(LEASE))
        if is_swept:
            assert self.run(queue.sweep(self.hands[0].conn, self.bench.domain)) == self.model.sweep()

    # operators

    @precondition(lambda self: self.model.commands)
    @rule(which=WHICH, action=st.sampled_from(["retry", "cancel", "complete"]), is_parked=st.booleans())
    def operate(self, which: int, action: str, is_parked: bool) -> None:
        parked = [c for c in self.model.commands.values() if c.status == PARKED]
        paper = parked[which % len(parked)] if is_parked and parked else self._command(which)
        act = getattr(self.tsq, f"operator_{action}")(paper.command_id, operator="ann", reason="by hand")
        if self.model.operate(paper.command_id, action):
            self.run(act)
        else:
            with pytest.raises(InvalidOperationError):
                self.run(act)

    @precondition(lambda self: self.batches)
    @rule(which=WHICH)
    def cancel_batch(self, which: int) -> None:
        batch = self.batches[which % len(self.batches)]
        cancelling = self.bench.bus.cancel_batch(self.bench.domain, batch, operator="ann", reason="no need")
        wanted = self.model.cancel_batch(batch)
        if wanted is None:
            with pytest.raises(InvalidOperationError):
                self.run(cancelling)
        else:
            assert self.run(cancelling).canceled == wanted
        self._count(batch)

    # replies

    @precondition(lambda self: any(c.reply for c in self.model.commands.values()))
    @rule(what=st.sampled_from(["acknowledge", "release", "forget"]))
    def read_replies(self, what: str) -> None:
        received = self.run(self.replies.receive(lease=LEASE))
        for reply in received:
            assert str(reply.outcome) == self.model.commands[reply.command_id].reply
            assert reply.command_id not in self.answered
        if what == "acknowledge":
            assert self.run(self.replies.acknowledge(received)) == []
            self.answered.update((reply.command_id, str(reply.outcome)) for reply in received)
        elif what == "release":
            self.run(self.replies.release(received))

    # what must hold

    @invariant()
    def all_is_as_on_paper(self) -> None:
        found = self.run(self._found())
        wanted = {
            c.command_id: ("IN_PROGRESS" if c.until is not None else c.status, c.events)
            for c in self.model.commands.values()
        }
        assert found == wanted

    async def _found(self) -> dict[UUID, tuple[str, list[str]]]:
        rows = await (await self.hands[0].conn.execute(FOUND, (self.bench.domain,))).fetchall()
        return {
            command_id: ("IN_PROGRESS" if is_leased else status, events)
            for command_id, status, is_leased, events in rows
        }

    def _count(self, batch: UUID) -> None:
        stats = self.run(self.bench.bus.get_batch(self.bench.domain, batch))
        found = (stats.completed_count, stats.failed_count, stats.canceled_count, stats.in_troubleshooting_count)
        assert found == self.model.counts(batch)

    def teardown(self) -> None:
        """Have all audited, bring it to its end, look that nobody was forgotten, and have it audited again."""
        try:
            self.run(self._audit(liveness=False))
            while any(c.status not in TERMINAL for c in self.model.commands.values()):
                self._drain()
            self.all_is_as_on_paper()
            self.leases_end(is_swept=False)
            self.read_replies("acknowledge")
            assert self.answered == {c.command_id: c.reply for c in self.model.commands.values() if c.has_reply}
            for batch in self.batches:
                self._count(batch)
            self.run(self._audit(liveness=True))
            self.stage.events.update(event for c in self.model.commands.values() for event in c.events)
        finally:
            self.run(self.stack.aclose())

    def _drain(self) -> None:
        self.leases_end(is_swept=True)
        claims = self._claim(self.hands[0], 1_000)
        self._end(self.hands[0], [(claimed, "ok") for claimed in claims])
        for paper in [c for c in self.model.commands.values() if c.status == PARKED]:
            self.model.operate(paper.command_id, "complete")
            self.run(self.tsq.operator_complete(paper.command_id, operator="ann"))

    async def _audit(self, *, liveness: bool) -> None:
        async with self.bench.pool.connection() as conn:
            violations = await audit(conn, liveness=liveness, domains=[self.bench.domain])
        assert not violations, format_violations(violations)

    def _command(self, which: int) -> Paper:
        papers = list(self.model.commands.values())
        return papers[which % len(papers)]


def play(dsn: str, **budget: Any) -> Counter[str]:
    """Play random histories, and count their events; one that fails is told as the shortest that does."""
    migrate(dsn)
    make_clock(dsn)
    budget |= {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
    phases = [Phase.generate, Phase.shrink]
    with asyncio.Runner() as runner:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False)
        runner.run(pool.open())
        stage = Stage(runner, dsn, pool)
        try:
            run_state_machine_as_test(lambda: BusMachine(stage), settings=settings(**budget, phases=phases))
        finally:
            runner.run(pool.close())
    return stage.events


def test_any_history_of_public_operations_is_as_on_paper(empty_dsn: str) -> None:
    play(empty_dsn, max_examples=10, stateful_step_count=30, derandomize=True)


@pytest.mark.slow
def test_many_more_histories(empty_dsn: str) -> None:
    events = play(empty_dsn, max_examples=60, stateful_step_count=50, derandomize=True)
    assert set(events) == EVENTS
