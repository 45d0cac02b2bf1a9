"""Planted defects: each is caught by the auditor, under the rule that names it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from commandbus import auditor
from commandbus._core.audit_screen_sql import AuditScreen
from commandbus.auditor import Violation, audit
from commandbus.migrate import migrate
from tests.integration.audit_damages import DAMAGES, Damage
from tests.integration.audit_patches import PATCHES, Patch
from tests.integration.bus_history import Bus, write_history
from tests.integration.servers import Server


@dataclass(frozen=True)
class Templates:
    """Two sound databases to copy: one with the history, one that is only migrated."""

    server: Server
    history: str
    fresh: str
    bus: Bus


@pytest.fixture(scope="module")
def templates(postgres_server: Server) -> Templates:
    migrate(postgres_server.create("audit_fresh"))
    postgres_server.create("audit_history", "audit_fresh")
    with psycopg.connect(postgres_server.dsn("audit_history"), autocommit=True) as conn:
        bus = Bus(conn)
        write_history(bus)
    return Templates(postgres_server, "audit_history", "audit_fresh", bus)


@pytest.fixture
def copy(templates: Templates) -> Iterator[Callable[[str], str]]:
    """Make a database of this test's own of one of the templates; returns its DSN."""
    yield lambda template: templates.server.create("mutant", template)
    templates.server.drop("mutant")


async def findings(dsn: str, screens: Sequence[AuditScreen]) -> list[Violation]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditor, "SCREENS", screens)
        async with await AsyncConnection.connect(dsn) as conn:
            return await audit(conn, liveness=True)


async def broken_rules(dsn: str, *, liveness: bool = False) -> dict[str, list[str]]:
    async with await AsyncConnection.connect(dsn) as conn:
        found = await audit(conn, liveness=liveness)
    return {rule: [v.subject for v in found if v.rule == rule] for rule in {v.rule for v in found}}


def run(dsn: str, statements: str, **values: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.ClientCursor(conn) as cursor:
        cursor.execute(statements.encode(), values)


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: f"{d.rule} {d.name}")
async def test_damage_is_caught(damage: Damage, templates: Templates, copy: Callable[[str], str]) -> None:
    dsn = copy(templates.history)
    run(dsn, damage.statement, id=templates.bus.ids[damage.subject])
    found = await findings(dsn, auditor.SCREENS)
    assert damage.rule in {violation.rule for violation in found}
    assert found == await findings(dsn, ())


@pytest.mark.slow
@pytest.mark.asyncio
async def test_no_screen_passes_what_a_statement_would_report(templates: Templates, copy: Callable[[str], str]) -> None:
    """Each damage once more, to something that went the plain way, in a database of its own."""
    dsn = copy(templates.fresh)
    with psycopg.connect(dsn, autocommit=True) as conn:
        bus = Bus(conn)
        bus.start("plain")
        bus.advance("plain", "one", then="two")
        bus.advance("plain", "two", status="COMPLETED")
        bus.send("lone")
        bus.settle(bus.claim("lone"))
    assert await findings(dsn, auditor.SCREENS) == []
    for number, damage in enumerate(DAMAGES):
        templates.server.create(f"mutant_{number}", "mutant")
        try:
            again = templates.server.dsn(f"mutant_{number}")
            subject = ("plain.one", "lone", "plain", "plain.two")[number % 4]
            run(again, damage.statement, id=bus.ids[subject])
            assert await findings(again, auditor.SCREENS) == await findings(again, ()), (damage.name, subject)
        finally:
            templates.server.drop(f"mutant_{number}")


@pytest.mark.asyncio
@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: f"{p.rule} {p.name}")
async def test_a_patched_function_is_caught(patch: Patch, templates: Templates, copy: Callable[[str], str]) -> None:
    dsn = copy(templates.fresh)
    with psycopg.connect(dsn, autocommit=True) as conn:
        bus = Bus(conn)
        text = bus.rows(
            "SELECT pg_get_functiondef(p.oid) AS text FROM pg_proc p WHERE p.pronamespace = 'commandbus'::regnamespace"
            " AND p.proname = %(name)s", name=patch.function)[0]["text"]  # fmt: skip
        patched, places = re.subn(r"\s+".join(map(re.escape, patch.old.split())), lambda _: patch.new, text)
        assert places, "the schema's function changed: bring this patch up to date"
        conn.execute(patched.encode())
        bus.send("a", reply_to="shop")
        patch.play(bus)
    assert patch.rule in await broken_rules(dsn)


@pytest.mark.asyncio
@pytest.mark.parametrize("patch", {p.play: p for p in PATCHES}.values(), ids=lambda p: p.name)
async def test_the_same_verbs_are_sound_without_the_patch(
    patch: Patch, templates: Templates, copy: Callable[[str], str]
) -> None:
    dsn = copy(templates.fresh)
    with psycopg.connect(dsn, autocommit=True) as conn:
        bus = Bus(conn)
        bus.send("a", reply_to="shop")
        patch.play(bus)
    assert await broken_rules(dsn) == {}
