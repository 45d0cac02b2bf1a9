"""The auditor: holds a database of the bus against its invariants, by SQL alone, as of one moment."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg.sql import SQL

from ._core import audit_batches_sql, audit_commands_sql, audit_processes_sql, audit_screen_sql, audit_trail_sql
from ._core.audit_screen_sql import AuditScreen
from ._core.audit_sql import AuditSQL, AuditStatement
from .errors import CommandBusError, InvalidOperationError

SHOWN_PER_RULE = 20
"""How many findings one statement reports for one rule; the rest are counted."""

AUDIT_RULES: dict[str, str] = {
    "S2": "one row for each command_id, and a lease only while IN_PROGRESS",
    "S3": "a command's events form a legal path, and its state is what the last one says",
    "S4": "at most one terminal event, and nothing after it but a late outcome dropped",
    "S5": "who settles holds the newest claim: its epoch, its worker",
    "S6": "failures and lost leases of a life never above max_attempts, epochs without gaps",
    "S7": "the claims of one command never overlap",
    "S9": "one reply row or one advance of the process for each command that ends",
    "S10": "a final batch counts what it has, and ended with its last member",
    "S11": "a process's path is legal, with one live command at most, undone in reverse order",
    "S12": "no orphans; a live command has exactly one row in queue, scheduled or troubleshooting, a terminal one none",
    "S13": "created, claimed, settled: in this order by the database's clock",
    "L1": "at rest every command is terminal, parked, or scheduled in the future",
    "L2": "no lease has run out while a worker is alive",
    "L3": "at rest every process is terminal or has exactly one live or parked command",
}

OUTSIDE_RULES: dict[str, str] = {
    "S1": "every acknowledged send is stored, and nothing that nobody tried to send",
    "S8": "an attempt runs once, and what it does in the bus's transaction happens just when it completes",
    "S14": "the audit trail only grows",
    "L4": "no session, lock or process of a worker is left when it has stopped",
    "L5": "no dead rows are left after a VACUUM, at rest",
}
"""What no look into the database alone can tell: the pytest plugin, which watches the bus from outside, reports it."""

SAFETY_STATEMENTS: tuple[AuditStatement, ...] = (
    audit_commands_sql.DOUBLES,
    audit_commands_sql.STATE,
    audit_trail_sql.TRAIL,
    audit_trail_sql.LATE_OUTCOMES,
    audit_trail_sql.LIVES,
    audit_processes_sql.REPLIES,
    audit_batches_sql.BATCHES,
    audit_processes_sql.PROCESSES,
    audit_processes_sql.PATHS,
    audit_processes_sql.CANCELS,
    audit_commands_sql.ORPHANS,
    audit_commands_sql.UNCOMPLETED,
    audit_commands_sql.SENT,
)
"""Checked always: these hold at any moment, also amid faults."""

LIVENESS_STATEMENTS: tuple[AuditStatement, ...] = (audit_commands_sql.LIVENESS, audit_processes_sql.LIVENESS)
"""Checked when the bus should have come to rest."""

SCREENS: tuple[AuditScreen, ...] = (audit_screen_sql.COMMANDS, audit_screen_sql.PROCESSES)
"""Run first: the statements read more closely what these find odd."""

_MOST_ODD = 300_000
EVERYTHING: dict[str, Any] = {"odd_commands": None, "odd_processes": None}
"""The parameters of the statements without a look by the screens: they read every row closely."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant: the rule (`S2` … `L3`), the id of the command, process or batch, and what is wrong."""

    rule: str
    subject: str
    message: str


class AuditError(CommandBusError):
    """The audit found broken invariants; `violations` has them."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(format_violations(violations))
        self.violations = tuple(violations)


async def audit(
    conn: AsyncConnection[Any], *, liveness: bool = False, domains: Iterable[str] | None = None
) -> list[Violation]:
    """Check every invariant that SQL can see, in one snapshot; return what is broken, an empty list when all is well.

    conn: a connection with no open transaction; the audit opens one of its own, which reads only.
    liveness: also what must hold once the bus has come to rest (L1 to L3).
    domains: report only about commands, processes and batches of these; with None also about rows of no domain.
    At most SHOWN_PER_RULE findings are reported for a rule and statement, and one more that counts the others.
    Errors: InvalidOperationError when a transaction is open; psycopg's for what the server refuses.
    """
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        raise InvalidOperationError(
            "the audit needs a snapshot of its own, but this connection is in a transaction: "
            "commit or roll it back first"
        )
    statements = SAFETY_STATEMENTS + (LIVENESS_STATEMENTS if liveness else ())
    asked = None if domains is None else list(domains)
    found: list[Violation] = []
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(AuditSQL.ONE_SNAPSHOT)
        await cursor.execute(AuditSQL.SETTINGS)
        odd = {screen.name: await _odd(cursor, screen) for screen in SCREENS}
        params = EVERYTHING | odd | {"domains": asked, "limit": SHOWN_PER_RULE}
        for statement in statements:
            found += await _findings(cursor, statement, params)
    order = {rule: place for place, rule in enumerate(AUDIT_RULES)}
    return sorted(found, key=lambda violation: order[violation.rule])


async def check(conn: AsyncConnection[Any], *, liveness: bool = False, domains: Iterable[str] | None = None) -> None:
    """Audit as `audit` does, and raise AuditError when anything is broken."""
    violations = await audit(conn, liveness=liveness, domains=domains)
    if violations:
        raise AuditError(violations)


def format_violations(violations: Sequence[Violation]) -> str:
    """Write violations for people: by rule, with what the rule says."""
    if not violations:
        return "the audit found nothing wrong"
    lines = [f"the audit found {len(violations)} broken invariant{'s' if len(violations) > 1 else ''}:"]
    for rule in dict.fromkeys(violation.rule for violation in violations):
        lines.append(f"{rule}: {(AUDIT_RULES | OUTSIDE_RULES).get(rule, 'no rule of this auditor')}")
        lines += [f"  {v.subject}: {v.message}" for v in violations if v.rule == rule]
    return "\n".join(lines)


async def _odd(cursor: AsyncCursor[TupleRow], screen: AuditScreen) -> str | None:
    """The ids that a screen does not let pass, as the text of an array; None for too many to name."""
    await cursor.execute(SQL(AuditSQL.ODD).format(screen=SQL(screen.statement)), {"most": _MOST_ODD})
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def _findings(
    cursor: AsyncCursor[TupleRow], statement: AuditStatement, params: dict[str, Any]
) -> list[Violation]:
    await cursor.execute(SQL(AuditSQL.FINDINGS).format(statement=SQL(statement.statement)), params)
    rows = await cursor.fetchall()
    found = [Violation(rule, subject, message) for rule, subject, message, _ in rows]
    more = {rule: total - SHOWN_PER_RULE for rule, _, _, total in rows if total > SHOWN_PER_RULE}
    return found + [Violation(rule, statement.name, f"and {count} more like these") for rule, count in more.items()]
