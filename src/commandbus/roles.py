"""Database roles: a producer, a worker, an operator and an auditor, each able to do its verbs and no more.

They are group roles, which nobody logs in as: `GRANT commandbus_worker TO shop_worker` makes a login role a worker.
All read everything of the bus. Only the owner of the schema migrates and prunes.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from commandbus._core.migration_sql import MigrationSQL
from commandbus._core.roles_sql import RolesSQL
from commandbus.migrate import check_schema_blocking
from commandbus.payload import check_name

_READ = (
    "now",
    "queue_depth",
    "bus_status",
    "activity",
    "find_newest_commands",
    "find_live_commands",
    "find_leased_commands",
    "find_commands",
    "find_batch_commands",
    "read_commands",
    "read_batches",
    "sp_refresh_batch_stats",
    "parked_matching",
    "find_parked",
    "count_parked",
    "show_parked",
)
_SEND = ("enqueue", "channel", "start_processes")
_ADD = {"command": "INSERT", "queue": "INSERT", "event": "INSERT", "process": "INSERT"}


@dataclass(frozen=True, slots=True)
class Role:
    """What one role may do beside reading: functions to execute, and privileges on tables."""

    name: str
    functions: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)


ROLES = (
    Role(
        "producer",
        (*_SEND, "receive_replies", "acknowledge_replies", "release_replies"),
        _ADD | {"batch": "INSERT, UPDATE", "reply": "UPDATE, DELETE"},
    ),
    Role(
        "worker",
        (
            *_SEND,
            "claim",
            "renew",
            "release",
            "record_outcomes",
            "advance_processes",
            "settle",
            "lock_claims",
            "sweep",
            "take_replies",
        ),
        {
            "command": "INSERT, UPDATE",
            "uncompleted": "INSERT",
            "queue": "INSERT, UPDATE, DELETE",
            "scheduled": "INSERT, UPDATE, DELETE",
            "troubleshooting": "INSERT",
            "event": "INSERT",
            "batch": "INSERT, UPDATE",
            "process": "INSERT, UPDATE",
            "reply": "INSERT, UPDATE, DELETE",
            "worker": "INSERT, UPDATE",
            "worker_statistic": "INSERT, UPDATE, DELETE",
        },
    ),
    Role(
        "operator",
        (
            "enqueue",
            "channel",
            "take_parked",
            "requeue",
            "cancel_processes",
            "take_unclaimed",
            "record_outcomes",
            "advance_processes",
        ),
        {
            "command": "INSERT, UPDATE",
            "uncompleted": "INSERT",
            "queue": "INSERT, UPDATE, DELETE",
            "scheduled": "INSERT, UPDATE, DELETE",
            "troubleshooting": "INSERT, UPDATE, DELETE",
            "event": "INSERT",
            "batch": "UPDATE",
            "process": "UPDATE",
            "reply": "INSERT, UPDATE",
            "worker": "UPDATE (stop_requested_at)",
        },
    ),
    Role("auditor"),
)


def create_roles(conninfo: str, *, prefix: str = "commandbus") -> list[str]:
    """Create the roles PREFIX_producer, PREFIX_worker, PREFIX_operator and PREFIX_auditor, or bring them up to date.

    Roles belong to the whole server, their privileges to the database at `conninfo`. Returns their names. May be called
    any number of times, also at once. Raises SchemaError for a database that is not migrated to this version,
    InvalidNameError for a prefix that makes no role's name, psycopg.errors.InsufficientPrivilege for a user who may not
    create roles or does not own the schema.
    """
    names = [check_name(f"{prefix}_{role.name}", "role") for role in ROLES]
    with psycopg.connect(conninfo, autocommit=True) as conn:
        check_schema_blocking(conn)
        for name in names:
            _create(conn, name)
        with conn.transaction():
            conn.execute(MigrationSQL.LOCK)
            for name, role in zip(names, ROLES, strict=True):
                _grant(conn, sql.Identifier(name), role)
    return names


def _create(conn: psycopg.Connection[Any], name: str) -> None:
    if conn.execute(RolesSQL.EXISTS.format(name=sql.Literal(name))).rowcount:
        return
    with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):  # somebody else did meanwhile
        conn.execute(RolesSQL.CREATE.format(role=sql.Identifier(name)))


def _grant(conn: psycopg.Connection[Any], role: sql.Identifier, may: Role) -> None:
    for statement in RolesSQL.START_ANEW:
        conn.execute(statement.format(role=role))
    for table, privileges in may.tables.items():
        conn.execute(
            RolesSQL.GRANT_TABLE.format(
                privileges=sql.SQL(privileges), table=sql.Identifier("commandbus", table), role=role
            )
        )
    functions = sql.SQL(", ").join(sql.Identifier("commandbus", name) for name in (*_READ, *may.functions))
    conn.execute(RolesSQL.GRANT_FUNCTIONS.format(functions=functions, role=role))
