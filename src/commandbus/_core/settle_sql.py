"""The statement that settles, and what it takes: what became of claimed commands, in columns."""

from collections.abc import Sequence
from typing import Any

import orjson

from commandbus._core.arrays import Packed, integers, jsons, texts, uuids
from commandbus._core.queue_sql import Claimed
from commandbus.outcome import Outcome
from commandbus.payload import sanitise
from commandbus.process.decide import Decision, Process

Advanced = tuple[Process, Decision]


class SettleSQL:
    """One function of the schema: see its comment there."""

    SETTLE = """
        SELECT lost, canceling
          FROM commandbus.settle(
               %(domain)s, %(worker)s, %(command_ids)s::uuid[], %(epochs)s::integer[], %(canceling)s::uuid[],
               %(outcomes)s::json, %(events)s::text[], %(results)s::json[], %(details)s::json[],
               %(process_ids)s::uuid[], %(statuses)s::text[], %(steps)s::text[], %(states)s::json[],
               %(visits)s::json[], %(undos)s::json[], %(undone_statuses)s::text[], %(error_codes)s::text[],
               %(error_messages)s::text[], %(next_ids)s::uuid[], %(domains)s::text[], %(command_types)s::text[],
               %(payloads)s::json[], %(times)s::integer[], %(max_attempts)s::integer[], %(compensates)s::uuid[],
               %(headers)s::json[])"""


class SettleParams:
    """Parameters of the statement above."""

    @staticmethod
    def settle(
        domain: str,
        worker_id: int,
        ended: Sequence[tuple[Claimed, Outcome]],
        advanced: Sequence[Advanced],
        outcomes: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        """Give what SETTLE takes.

        `advanced` belongs to the first of `ended`, and those of it that send another command come first.
        `outcomes` are the rows, as record_outcomes takes them, of whatever is not just completed.
        """
        own = {row["command_id"] for row in outcomes}
        return {
            "domain": domain,
            "worker": worker_id,
            "command_ids": uuids([claimed.command_id for claimed, _ in ended]),
            "epochs": integers([claimed.epoch for claimed, _ in ended]),
            "canceling": [claimed.command_id for claimed, _ in ended if claimed.canceling],
            "outcomes": orjson.dumps(outcomes).decode() if outcomes else None,
            "events": texts([o.event if c.command_id in own else None for c, o in ended]) if own else None,
            "results": jsons([outcome.result for _, outcome in ended]),
            "details": _jsons([sanitise(o.details).json if o.details else None for _, o in ended]),
            **_advances(advanced),
            **_sends([decision for _, decision in advanced if decision.send is not None]),
        }


def _advances(advanced: Sequence[Advanced]) -> dict[str, Any]:
    """What becomes of the processes."""
    decisions = [decision for _, decision in advanced]
    return {
        "process_ids": uuids([process.process_id for process, _ in advanced]),
        "statuses": texts([str(decision.status) for decision in decisions]),
        "steps": texts([decision.current_step for decision in decisions]),
        "states": jsons([decision.state for decision in decisions]),
        "visits": jsons([orjson.dumps(decision.visits).decode() for decision in decisions]),
        "undos": _jsons([_undo(d) if d.undone_status is not None else None for d in decisions]),
        "undone_statuses": _texts([decision.undone_status for decision in decisions]),
        "error_codes": _texts([decision.error_code for decision in decisions]),
        "error_messages": _texts([decision.error_message for decision in decisions]),
    }


def _sends(decisions: Sequence[Decision]) -> dict[str, Any]:
    """The commands that they send."""
    sends = [decision.send for decision in decisions if decision.send is not None]
    return {
        "next_ids": uuids([send.command_id for send in sends]),
        "domains": texts([send.domain for send in sends]),
        "command_types": texts([send.command_type for send in sends]),
        "payloads": jsons([send.payload for send in sends]),
        "times": integers([send.visit for send in sends]),
        "max_attempts": integers([send.max_attempts for send in sends]),
        "compensates": uuids([s.compensates for s in sends]) if any(s.compensates for s in sends) else None,
        "headers": _jsons([send.headers for send in sends]),
    }


def _undo(decision: Decision) -> str:
    return orjson.dumps([{"step": u.step, "compensates": u.compensates} for u in decision.undo]).decode()


def _texts(values: Sequence[str | None]) -> Packed | None:
    """A column that is seldom there."""
    return texts(values) if any(value is not None for value in values) else None


def _jsons(values: Sequence[str | None]) -> Packed | None:
    return jsons(values) if any(value is not None for value in values) else None
