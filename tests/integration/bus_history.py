"""A history of the bus, written through the functions of its schema, in which every kind of path occurs once."""

import json
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row

from commandbus._core.process_sql import ProcessSQL

DOMAIN = "orders"
Claim = dict[str, Any]

STATUS = {"COMPLETED": "COMPLETED", "BUSINESS_RULE_FAILED": "FAILED",
          "ATTEMPTS_EXHAUSTED": "FAILED", "MOVED_TO_TSQ": "IN_TROUBLESHOOTING_QUEUE",
          "OPERATOR_CANCEL": "CANCELED", "OPERATOR_COMPLETE": "COMPLETED", "CANCELED": "CANCELED"}  # fmt: skip
REPLY = {"COMPLETED": "SUCCESS", "FAILED": "FAILED", "CANCELED": "CANCELED"}
SETTLE = """
    SELECT lost FROM commandbus.settle(
        %(domain)s, %(worker)s, %(command_ids)s::uuid[], %(epochs)s::integer[], %(canceling)s::uuid[],
        %(outcomes)s::json, %(events)s::text[], NULL, NULL,
        %(process_ids)s::uuid[], %(statuses)s::text[], %(steps)s::text[], %(states)s::json[], %(visits)s::json[],
        %(undos)s::json[], %(undone_statuses)s::text[], NULL, NULL,
        %(next_ids)s::uuid[], %(domains)s::text[], %(command_types)s::text[], %(payloads)s::json[],
        %(times)s::integer[], NULL, %(compensates)s::uuid[])"""


@dataclass
class Bus:
    """The verbs of the schema on one connection. Commands have names here, `ids` tells their ids."""

    conn: psycopg.Connection[Any]
    ids: dict[str, UUID] = field(default_factory=dict)

    def rows(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def named(self, name: str) -> UUID:
        return self.ids.setdefault(name, uuid4())

    def command(self, name: str, **fields: Any) -> dict[str, Any]:
        return {
            "command_id": str(self.named(name)),
            "domain": DOMAIN,
            "command_type": "Reserve",
            "payload": {},
            **fields,
        }

    def send(self, *names: str, **fields: Any) -> None:
        commands = [self.command(name, **fields) for name in names]
        self.rows("SELECT commandbus.enqueue(%(commands)s)", commands=json.dumps(commands))

    def claim(self, name: str, worker: int = 1, lease: str = "1 hour", max_attempts: int = 3) -> Claim:
        """Claim this command alone; `lease` of 0 has run out by the next statement. Empty when it is not to be had."""
        values = {"domain": DOMAIN, "worker": worker, "lease": lease, "max_attempts": max_attempts}
        statement = (
            "SELECT * FROM commandbus.claim(%(domain)s, %(worker)s, %(limit)s, %(lease)s::interval,"
            " %(max_attempts)s, %(after)s)"
        )
        self.rows(statement, limit=0, after=0, **values)  # brings in the retries that are due
        place = self.rows("SELECT seq FROM commandbus.queue WHERE command_id = %(id)s", id=self.named(name))
        claims = self.rows(statement, limit=1, after=place[0]["seq"] - 1, **values)
        return claims[0] | {"worker": worker} if claims else {}

    def settle(
        self,
        claim: Claim,
        event: str = "COMPLETED",
        *,
        delay: float | None = None,
        advance: dict[str, Any] | None = None,
        sends: tuple[dict[str, Any], ...] = (),
        reply_to: str | None = None,
    ) -> list[UUID]:
        """Record an outcome; `advance` is what becomes of the process, in place of a reply. Returns what was lost."""
        failed = event in ("RETRY_SCHEDULED", "MOVED_TO_TSQ", "ATTEMPTS_EXHAUSTED")
        outcome = self._outcome(claim, event, claim["failures"] + failed, claim["failures"] + 1)
        outcome |= {"delay": delay, "reply_to": reply_to or claim["reply_to"]}
        if not (reply_to or claim["reply_to"]) or advance is not None:
            outcome["reply_outcome"] = None
        is_recorded = event != "COMPLETED" or outcome["reply_outcome"] is not None
        columns: dict[str, Any] = {
            "command_ids": [claim["command_id"]],
            "epochs": [claim["epoch"]],
            "canceling": [claim["command_id"]] if claim["canceling"] else [],
            "events": [event if is_recorded else None],
        }
        if advance is not None:
            columns |= {"process_ids": [claim["process_id"]], "states": ["{}"], "visits": ["{}"]}
            columns |= {name: [value] for name, value in advance.items()}
        for send in sends:
            columns |= {"next_ids": [send["command_id"]], "domains": [send["domain"]], "payloads": ["{}"],
                        "command_types": [send["command_type"]], "times": [send["visit"]],
                        "compensates": [send["compensates"]]}  # fmt: skip
        none = dict.fromkeys(re.findall(r"%\((\w+)\)s", SETTLE))
        columns |= {"domain": DOMAIN, "worker": claim["worker"]}
        columns |= {"outcomes": json.dumps([outcome]) if is_recorded else None}
        lost: list[UUID] = self.rows(SETTLE, **none | columns)[0]["lost"]
        return lost

    def _outcome(self, row: dict[str, Any], event: str, failures: int, attempts: int) -> dict[str, Any]:
        status = STATUS.get(event)
        failed = event in ("RETRY_SCHEDULED", "MOVED_TO_TSQ", "BUSINESS_RULE_FAILED", "ATTEMPTS_EXHAUSTED")
        found = self.rows("SELECT process_id FROM commandbus.command WHERE command_id = %(id)s", id=row["command_id"])
        process_id = found[0]["process_id"] if found else None  # the command may have been pruned
        return {
            "command_id": str(row["command_id"]), "domain": DOMAIN, "command_type": row["command_type"], "event": event,
            "status": status, "attempts": attempts, "epoch": row["epoch"], "failures": failures,
            "past_failures": row["past_failures"], "lost_leases": row["lost_leases"],
            "max_attempts": row["max_attempts"],
            "process_id": str(process_id) if process_id else None,
            "reply_outcome": REPLY.get(status or ""),
            "error_code": "NO_STOCK" if failed else None, "details": {"code": "NO_STOCK"} if failed else None,
        }  # fmt: skip

    def fail(self, name: str, *, delay: float = 0, max_attempts: int = 3) -> None:
        """One attempt that fails: retried after `delay` seconds, or parked when it was the last."""
        claim = self.claim(name, max_attempts=max_attempts)
        if claim["failures"] + 1 >= claim["max_attempts"]:
            self.settle(claim, "MOVED_TO_TSQ")
        else:
            self.settle(claim, "RETRY_SCHEDULED", delay=delay)

    def park(self, name: str) -> None:
        self.settle(self.claim(name), "MOVED_TO_TSQ")

    def renew(self, claim: Claim, lease: str) -> None:
        self.rows("SELECT commandbus.renew(%(worker)s, %(command_ids)s, %(epochs)s, %(lease)s::interval, true)",
                  worker=claim["worker"], command_ids=[claim["command_id"]], epochs=[claim["epoch"]],
                  lease=lease)  # fmt: skip

    def release(self, claim: Claim) -> None:
        self.rows("SELECT commandbus.release(%(domain)s, %(worker)s, %(command_ids)s, %(epochs)s)",
                  domain=DOMAIN, worker=claim["worker"], command_ids=[claim["command_id"]],
                  epochs=[claim["epoch"]])  # fmt: skip

    def sweep(self) -> None:
        self.rows("SELECT commandbus.sweep(%(domain)s, NULL)", domain=DOMAIN)

    def operate(self, name: str, event: str) -> None:
        """What an operator does to a parked command, or, with CANCELED, anyone to one not yet claimed."""
        take = {
            "CANCELED": "DELETE FROM commandbus.queue WHERE command_id = %(id)s RETURNING *",
        }.get(event, "DELETE FROM commandbus.troubleshooting WHERE command_id = %(id)s RETURNING *")
        with self.conn.transaction():
            row = self.rows(take, id=self.named(name))[0]
            if event == "OPERATOR_RETRY":
                again = {key: str(row[key]) for key in ("command_id", "domain", "command_type", "epoch")}
                again |= {"past_failures": row["past_failures"] + row["failures"], "max_attempts": row["max_attempts"]}
                self.rows("SELECT commandbus.requeue(%(commands)s)", commands=json.dumps([again]))
            else:
                outcome = self._outcome(row, event, row["failures"], row["failures"]) | {"reply_outcome": None}
                self.rows("SELECT commandbus.record_outcomes(NULL, %(outcomes)s)", outcomes=json.dumps([outcome]))

    def start(self, process: str, batch_id: UUID | None = None, *, sends: bool = True) -> None:
        """Start a process at its step `one`, or FAILED before it sent any; its commands are `<process>.<step>`."""
        step = "one" if sends else None
        self.rows(
            ProcessSQL.START, domain=DOMAIN, process_type="Order", batch_id=batch_id, first_ordinal=None, headers=None,
            process_ids=[self.named(process)], statuses=["WAITING_FOR_REPLY" if sends else "FAILED"], steps=[step],
            states=["{}"], visits=['{"one": 1}' if sends else "{}"], error_codes=[None], error_messages=[None],
            command_ids=[self.named(f"{process}.one") if sends else None], command_domains=[DOMAIN],
            command_types=["Reserve"], payloads=["{}"], max_attempts=[None],
        )  # fmt: skip

    def step(self, process: str, step: str, undoes: str | None = None) -> dict[str, Any]:
        compensates = str(self.named(f"{process}.{undoes}")) if undoes else None
        fields = {"process_id": str(self.named(process)), "step": step, "visit": 1, "compensates": compensates}
        return self.command(f"{process}.{step}", **fields)

    def advance(
        self, process: str, done: str, then: str | None = None, *, event: str = "COMPLETED", undoes: str | None = None,
        status: str | None = None,
    ) -> None:  # fmt: skip
        """Settle the step `done`, and go on with `then`, or end with `status`."""
        row: dict[str, Any] = {"statuses": status, "steps": then or done}
        sends: tuple[dict[str, Any], ...] = ()
        if then:
            row |= {"statuses": "COMPENSATING" if undoes else "WAITING_FOR_REPLY"}
            if undoes:
                row |= {"undos": "[]", "undone_statuses": "CANCELED"}
            sends = (self.step(process, then, undoes),)
        self.settle(self.claim(f"{process}.{done}"), event, advance=row, sends=sends)

    def cancel(self, process: str) -> None:
        """Cancel a process whose command is in flight."""
        self.rows("SELECT commandbus.cancel_processes(ARRAY[%(id)s::uuid], %(who)s, false)",
                  id=self.named(process), who=json.dumps({"operator": "ann", "reason": ""}))  # fmt: skip

    def batch(self, name: str, total: int, batch_type: str = "COMMAND") -> UUID:
        self.rows(
            "INSERT INTO commandbus.batch (batch_id, domain, total_count, batch_type, created_at)"
            " VALUES (%(id)s, %(domain)s, %(total)s, %(type)s, commandbus.now())",
            id=self.named(name), domain=DOMAIN, total=total, type=batch_type,
        )  # fmt: skip
        return self.named(name)

    def refresh(self, name: str) -> None:
        self.rows("SELECT commandbus.sp_refresh_batch_stats(%(domain)s, %(id)s)", domain=DOMAIN, id=self.named(name))


def write_history(bus: Bus) -> None:
    """Leave one command, process or batch in each state that there is, and behind it each path to it."""
    _commands(bus)
    _operators(bus)
    _processes(bus)
    _batches(bus)


def _commands(bus: Bus) -> None:
    bus.send("done", "refused", reply_to="shop")
    bus.send(
        "retried",
        "waiting",
        "leased",
        "scheduled",
        "taken over",
        "swept",
        "released",
        "extended",
        "canceled",
        "failing",
        "exhausted",
    )
    bus.settle(bus.claim("done"))
    bus.settle(bus.claim("refused"), "BUSINESS_RULE_FAILED")
    bus.fail("retried")
    bus.settle(bus.claim("retried", worker=2))
    bus.claim("leased")
    bus.fail("scheduled", delay=3600)
    zombie = bus.claim("taken over", lease="0")
    bus.settle(bus.claim("taken over", worker=2))
    bus.settle(zombie)
    bus.claim("swept", lease="0", max_attempts=1)
    bus.sweep()
    bus.release(bus.claim("released"))
    extended = bus.claim("extended")
    bus.renew(extended, "2 hours")
    bus.settle(extended)
    bus.operate("canceled", "CANCELED")
    bus.fail("exhausted", max_attempts=2)
    bus.settle(bus.claim("exhausted", max_attempts=2), "ATTEMPTS_EXHAUSTED")
    bus.fail("failing")
    bus.fail("failing")
    bus.fail("failing")


def _operators(bus: Bus) -> None:
    bus.send("parked", "given up", "helped", "second life")
    for name in ("parked", "given up", "helped", "second life"):
        bus.park(name)
    bus.operate("given up", "OPERATOR_CANCEL")
    bus.operate("helped", "OPERATOR_COMPLETE")
    bus.operate("second life", "OPERATOR_RETRY")
    bus.claim("second life", lease="0")
    bus.fail("second life")
    bus.settle(bus.claim("second life"))


def _processes(bus: Bus) -> None:
    for process in ("whole", "under way", "answered", "stuck", "undoing", "undone", "broken"):
        bus.start(process)
    for process in ("whole", "under way", "undoing", "undone"):
        bus.advance(process, "one", "two")
    for process in ("whole", "undoing", "undone"):
        bus.advance(process, "two", "three")
    bus.advance("whole", "three", status="COMPLETED")
    bus.settle(bus.claim("answered.one"), reply_to="process:Order")
    bus.park("stuck.one")
    for process in ("undoing", "undone"):
        bus.advance(process, "three", "undo two", event="BUSINESS_RULE_FAILED", undoes="two")
        bus.advance(process, "undo two", "undo one", undoes="one")
    bus.advance("undone", "undo one", status="CANCELED")
    bus.advance("broken", "one", status="FAILED")
    for process in ("to cancel", "cancelled"):
        bus.start(process)
        bus.claim(f"{process}.one", lease="0")
        bus.cancel(process)
    bus.advance("cancelled", "one", event="CANCELED", status="CANCELED")


def _batches(bus: Bus) -> None:
    for name, total in (("ended batch", 2), ("open batch", 2)):
        batch = str(bus.batch(name, total))
        bus.send(f"{name} 1", f"{name} 2", batch_id=batch)
        bus.settle(bus.claim(f"{name} 1"))
    bus.settle(bus.claim("ended batch 2"), "BUSINESS_RULE_FAILED")
    processes = bus.batch("process batch", 2, "PROCESS")
    for member in ("member 1", "member 2"):
        bus.start(member, processes)
        bus.advance(member, "one", status="COMPLETED")
    cancelled = bus.batch("cancelled batch", 3, "PROCESS")
    bus.start("last member", cancelled)
    bus.rows("UPDATE commandbus.batch SET canceled_at = commandbus.now(), total_count = 1 WHERE batch_id = %(id)s",
             id=cancelled)  # fmt: skip
    for name in ("ended batch", "open batch", "process batch", "cancelled batch"):
        bus.refresh(name)
