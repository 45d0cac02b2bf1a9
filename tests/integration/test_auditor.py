"""The auditor finds nothing wrong in a sound database, and says readably what it finds in another."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from commandbus.auditor import AUDIT_RULES, SHOWN_PER_RULE, AuditError, Violation, audit, check, format_violations
from commandbus.errors import InvalidOperationError
from commandbus.migrate import migrate
from tests.integration.bus_history import DOMAIN, Bus, write_history


@pytest.fixture
def bus(empty_dsn: str) -> Iterator[Bus]:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        yield Bus(conn)


async def audited(dsn: str, **options: Any) -> list[Violation]:
    async with await AsyncConnection.connect(dsn) as conn:
        return await audit(conn, **options)


@pytest.mark.asyncio
async def test_an_empty_bus_is_sound(bus: Bus, empty_dsn: str) -> None:
    assert await audited(empty_dsn, liveness=True) == []


@pytest.mark.asyncio
async def test_a_history_of_every_kind_is_sound(bus: Bus, empty_dsn: str) -> None:
    write_history(bus)
    assert bus.rows("SELECT count(*) AS n FROM commandbus.event")[0]["n"] > 100
    assert await audited(empty_dsn) == []
