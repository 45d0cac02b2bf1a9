"""Outcomes of claimed commands -> one guarded transaction: outcomes, the processes they advance, what comes next."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from orjson import Fragment

from commandbus._core.connection import Connection
from commandbus._core.process_sql import ProcessParsers
from commandbus._core.queue_sql import Claimed
from commandbus.handler import HandlerContext
from commandbus.models import CommandStatus, ReplyOutcome
from commandbus.outcome import Outcome, canceled
from commandbus.payload import load_payload, sanitise
from commandbus.process import advance
from commandbus.process.decide import Manager, Process, may_decide
from commandbus.process.models import CancelRequest, ProcessResponse
from commandbus.repositories import queue


@dataclass(slots=True)
class Finished:
    """A claimed command and what became of it; `seconds` is how long its handler ran, None if it did not.

    `context` is its handler's, None when it had no handler here.
    """

    claimed: Claimed
    outcome: Outcome
    seconds: float | None = None
    context: HandlerContext | None = None


def process_address(process_type: str) -> str:
    """Where the replies for a process's manager wait when it lives in another application."""
    return f"process:{process_type}"


class Settlement:
    """Settles for one worker; `managers` are those that live in its application, by process type."""

    def __init__(self, domain: str, worker_id: int, managers: Mapping[str, Manager]) -> None:
        self.domain = domain
        self.worker_id = worker_id
        self.managers = managers

    async def settle(self, conn: Connection, finished: Sequence[Finished]) -> set[int]:
        """Record all of `finished` that is still this worker's; returns the seqs of what was not.

        One transaction of its own, or the connection's open one. Commands whose processes were cancelled while they
        were in flight are decided about again, knowing that, and settled by a second one.
        """
        lost, canceling = await self._settle(conn, finished)
        if canceling:
            again = [f for f in finished if f.claimed.seq in canceling]
            for f in again:
                f.claimed.canceling = True
            lost |= (await self._settle(conn, again))[0]
        return lost

    async def _settle(self, conn: Connection, finished: Sequence[Finished]) -> tuple[set[int], set[int]]:
        """Settle what can be; returns the seqs that were lost, and those that turn out to be canceling."""
        requests = await self._requests(conn, finished)
        replies = [(f, *reply) for f in finished if (reply := self._reply(f, requests)) is not None]
        advances = await advance.plan(conn, [(manager, process, response) for _, manager, process, response in replies])
        seqs = [f.claimed.seq for f, *_ in replies]
        if not any(a.decision.send is not None and a.manager.is_hooked for a in advances):
            return await self._store(conn, finished, seqs, advances)
        async with conn.transaction():
            ours = await queue.lock_claims(conn, self.domain, self.worker_id, [f.claimed for f in finished])
            surprises = {f.claimed.seq for f in finished if ours.get(f.claimed.seq) and not f.claimed.canceling}
            if surprises:  # no hook is called for what is not going to be sent
                finished = [f for f in finished if f.claimed.seq not in surprises]
                kept = [(seq, a) for seq, a in zip(seqs, advances, strict=True) if seq not in surprises]
                seqs, advances = [seq for seq, _ in kept], [a for _, a in kept]
            await advance.run_hooks(conn, [a for seq, a in zip(seqs, advances, strict=True) if seq in ours])
            lost, _ = await self._store(conn, finished, seqs, advances)
            return lost, surprises

    async def _requests(self, conn: Connection, finished: Sequence[Finished]) -> dict[UUID, CancelRequest]:
        """Who cancelled the processes of those that are canceling; the outcomes of these are changed accordingly."""
        canceling = [(f, f.claimed.process_id) for f in finished if f.claimed.canceling and f.claimed.process_id]
        if not canceling:
            return {}
        requests = await advance.cancel_requests(conn, [process_id for _, process_id in canceling])
        for f, process_id in canceling:
            request = requests[process_id]
            f.outcome = canceled(f.outcome, f.claimed.lost_leases, request.message, asdict(request))
        return requests

    async def _store(
        self, conn: Connection, finished: Sequence[Finished], seqs: Sequence[int], advances: Sequence[advance.Advance]
    ) -> tuple[set[int], set[int]]:
        advanced, sends = advance.rows(advances)
        for row, seq in zip(advanced, seqs, strict=True):
            row["seq"] = seq
        sending = [seq for seq, a in zip(seqs, advances, strict=True) if a.decision.send is not None]
        for row, seq in zip(sends, sending, strict=True):
            row["seq"] = seq
        here = set(seqs)
        outcomes = [self._outcome_row(f, f.claimed.seq in here) for f in finished]
        return await queue.settle(
            conn, self.domain, self.worker_id, [f.claimed for f in finished], outcomes, advanced, sends
        )

    def _reply(
        self, finished: Finished, requests: Mapping[UUID, CancelRequest]
    ) -> tuple[Manager, Process, ProcessResponse] | None:
        """The process that this outcome advances here, if its manager lives here and knows the steps that it was at."""
        claimed, outcome = finished.claimed, finished.outcome
        manager = self.managers.get(claimed.process_type or "")
        if outcome.reply is None or claimed.process_id is None or manager is None:
            return None
        process = Process(
            process_id=claimed.process_id,
            process_type=manager.process_type,
            domain=manager.domain,
            state=claimed.state or "{}",
            command_id=claimed.command_id,
            step=claimed.step or "",
            compensates=claimed.compensates,
            batch_id=claimed.process_batch_id,
            ordinal=claimed.process_ordinal,
            visits=load_payload(claimed.visits or "{}"),
            undo=ProcessParsers.undo(claimed.undo),
            undone_status=claimed.undone_status,
            cancel=requests.get(claimed.process_id) if claimed.canceling else None,
        )
        response = ProcessResponse(
            claimed.command_id, outcome.reply, outcome.value, outcome.error_code, outcome.error_message
        )
        return (manager, process, response) if may_decide(manager, process, response) else None

    def _outcome_row(self, finished: Finished, is_advanced: bool) -> dict[str, Any]:
        claimed, outcome = finished.claimed, finished.outcome
        row: dict[str, Any] = {
            "seq": claimed.seq,
            "command_id": claimed.command_id,
            "epoch": claimed.epoch,
            "event": outcome.event,
            "attempts": outcome.attempts,
            "max_attempts": claimed.max_attempts,
        }
        if outcome.status is not None:
            row["status"] = outcome.status
        if outcome.result is not None:
            row["result"] = Fragment(outcome.result)
        details = outcome.details if outcome.delay is None else {**outcome.details, "delay": outcome.delay}
        if details:
            row["details"] = Fragment(sanitise(details).json)
        if outcome.status is not CommandStatus.COMPLETED:
            row.update(self._failure(finished))
        if outcome.reply is not None and not is_advanced:
            row.update(self._reply_row(claimed, outcome.reply))
        return row

    def _failure(self, finished: Finished) -> dict[str, Any]:
        claimed, outcome = finished.claimed, finished.outcome
        return {
            "domain": self.domain,
            "command_type": claimed.command_type,
            "process_id": claimed.process_id,
            "error_code": outcome.error_code,
            "error_message": outcome.error_message,
            "failures": outcome.failures,
            "past_failures": claimed.past_failures,
            "lost_leases": claimed.lost_leases,
            "delay": outcome.delay,
        }

    @staticmethod
    def _reply_row(claimed: Claimed, outcome: ReplyOutcome) -> dict[str, Any]:
        """A terminal command's reply, which somebody else is to read."""
        reply_to = claimed.reply_to if claimed.process_type is None else process_address(claimed.process_type)
        if reply_to is None:
            return {}
        return {
            "reply_to": reply_to,
            "reply_outcome": outcome,
            "correlation_id": claimed.correlation_id,
            "process_id": claimed.process_id,
        }
