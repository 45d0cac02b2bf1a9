"""Outcomes of claimed commands -> one guarded transaction: outcomes, the processes they advance, what comes next."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import orjson
from orjson import Fragment

from commandbus._core.connection import Connection
from commandbus._core.process_sql import ProcessParsers
from commandbus._core.queue_sql import Claimed
from commandbus.handler import HandlerContext
from commandbus.headers import keep_headers
from commandbus.outcome import Outcome, canceled
from commandbus.payload import sanitise
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


def split_group(finished: Sequence[Finished], most: int) -> tuple[list[Finished], list[Finished]]:
    """Split off those to settle next, at most `most`: no command twice, the older claim first. Returns the rest too.

    A worker that could not settle for longer than a lease, or to whom an operator gave the command again, may have
    finished both claims.
    """
    group: list[Finished] = []
    rest: list[Finished] = []
    ids: set[UUID] = set()
    for f in finished:
        if len(group) < most and f.claimed.command_id not in ids:
            ids.add(f.claimed.command_id)
            group.append(f)
        else:
            rest.append(f)
    return group, rest


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
        """Record all of `finished` that is still this worker's, no command twice; returns the seqs of what was not.

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
        advanced = [(f, a) for (f, *_), a in zip(replies, advances, strict=True)]
        for f, a in advanced:
            if a.decision.send is not None:
                a.decision.send.headers = _headers(f)
        if not any(a.manager.is_hooked and a.decision.send is not None for a in advances):
            return await self._store(conn, finished, advanced)
        async with conn.transaction():
            ours = await queue.lock_claims(conn, self.worker_id, [f.claimed for f in finished])
            surprises = {f.claimed.seq for f in finished if ours.get(f.claimed.seq) and not f.claimed.canceling}
            if surprises:  # no hook is called for what is not going to be sent
                finished = [f for f in finished if f.claimed.seq not in surprises]
                advanced = [(f, a) for f, a in advanced if f.claimed.seq not in surprises]
            await advance.run_hooks(conn, [a for f, a in advanced if f.claimed.seq in ours])
            lost, _ = await self._store(conn, finished, advanced)
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
        self, conn: Connection, finished: Sequence[Finished], advanced: list[tuple[Finished, advance.Advance]]
    ) -> tuple[set[int], set[int]]:
        advance.tell_failures([a for _, a in advanced])
        advanced.sort(key=lambda pair: pair[1].decision.send is None)
        here = {f.claimed.seq for f, _ in advanced}
        alone = [f for f in finished if f.claimed.seq not in here]
        outcomes = [self._outcome_row(f, {}) for f, _ in advanced if f.outcome.event != "COMPLETED"]
        for f in alone:
            reply = self._reply_row(f)
            if reply or f.outcome.event != "COMPLETED":
                outcomes.append(self._outcome_row(f, reply))
        return await queue.settle(
            conn,
            self.domain,
            self.worker_id,
            [(f.claimed, f.outcome) for f in (*(f for f, _ in advanced), *alone)],
            [(a.process, a.decision) for _, a in advanced],
            outcomes,
        )

    def _reply(
        self, finished: Finished, requests: Mapping[UUID, CancelRequest]
    ) -> tuple[Manager, Process, ProcessResponse] | None:
        """The process that this outcome advances here, if its manager lives here and knows the steps that it was at."""
        claimed, outcome = finished.claimed, finished.outcome
        manager = self.managers.get(claimed.process_type or "")
        if outcome.reply is None or claimed.process_id is None or manager is None:
            return None
        process = Process(  # by position: names would take as long again
            claimed.process_id,
            manager.process_type,
            manager.domain,
            claimed.state or "{}",
            claimed.command_id,
            claimed.step or "",
            claimed.compensates,
            claimed.process_batch_id,
            claimed.process_ordinal,
            orjson.loads(claimed.visits or "{}"),
            ProcessParsers.undo(claimed.undo) if claimed.undo else (),
            claimed.undone_status,
            requests.get(claimed.process_id) if claimed.canceling else None,
        )
        response = ProcessResponse(
            claimed.command_id, outcome.reply, outcome.value, outcome.error_code, outcome.error_message
        )
        return (manager, process, response) if may_decide(manager, process, response) else None

    def _outcome_row(self, finished: Finished, reply: dict[str, Any]) -> dict[str, Any]:
        """What record_outcomes takes for a command that is not just completed."""
        claimed, outcome = finished.claimed, finished.outcome
        details = outcome.details if outcome.delay is None else {**outcome.details, "delay": outcome.delay}
        return {
            "command_id": claimed.command_id,
            "domain": self.domain,
            "command_type": claimed.command_type,
            "event": outcome.event,
            "status": outcome.status,
            "result": None if outcome.result is None else Fragment(outcome.result),
            "error_code": outcome.error_code,
            "error_message": outcome.error_message,
            "attempts": outcome.attempts,
            "epoch": claimed.epoch,
            "failures": outcome.failures,
            "past_failures": claimed.past_failures,
            "lost_leases": claimed.lost_leases,
            "max_attempts": claimed.max_attempts,
            "delay": outcome.delay,
            "details": Fragment(sanitise(details).json) if details else None,
            "process_id": claimed.process_id,
            **reply,
        }

    @staticmethod
    def _reply_row(finished: Finished) -> dict[str, Any]:
        """A terminal command's reply, which somebody else is to read; empty when there is none, or nobody."""
        claimed, outcome = finished.claimed, finished.outcome.reply
        reply_to = claimed.reply_to if claimed.process_type is None else process_address(claimed.process_type)
        if outcome is None or reply_to is None:
            return {}
        row: dict[str, Any] = {"reply_to": reply_to, "reply_outcome": outcome, "correlation_id": claimed.correlation_id}
        if (headers := _headers(finished)) is not None:
            row["headers"] = Fragment(headers)
        return row


def _headers(finished: Finished) -> str | None:
    """What its reply, or the next command, carries on."""
    context = finished.context
    if context is None:
        return finished.claimed.headers
    return keep_headers(context.headers) if context.headers else None
