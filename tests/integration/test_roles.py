"""Who may do what: each role does its verbs, and is refused those of the others by PostgreSQL itself."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege
from psycopg_pool import AsyncConnectionPool

from commandbus.cli import main
from commandbus.errors import SchemaError
from commandbus.migrate import migrate
from commandbus.roles import ROLES, create_roles
from tests.integration.process_kit import make_manager, open_hand
from tests.integration.roles_kit import EVERYBODY, VERBS, Scene
from tests.integration.worker_kit import Bench, eventually, open_bench

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def owner(empty_dsn: str) -> AsyncIterator[Bench]:
    """The owner of a migrated database; its auditor looks at all that the roles did."""
    await asyncio.to_thread(migrate, empty_dsn)
    async with open_bench(empty_dsn) as bench:
        yield bench


@pytest.fixture
def prefix(owner: Bench) -> Iterator[str]:
    """What the names of the test's roles begin with; the roles are the server's, and end with the test."""
    prefix = f"r{uuid4().hex[:16]}"
    yield prefix
    with psycopg.connect(owner.dsn, autocommit=True) as conn:
        for role in ROLES:
            name = sql.Identifier(f"{prefix}_{role.name}")
            if conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [f"{prefix}_{role.name}"]).rowcount:
                conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
                conn.execute(sql.SQL("DROP ROLE {}").format(name))


@asynccontextmanager
async def acting(owner: Bench, role: str) -> AsyncIterator[Scene]:
    """A scene in which this role of the database acts."""
    dsn = make_conninfo(owner.dsn, application_name=role, options=f"-c track_functions=all -c role={role}")
    owners_manager = make_manager(owner)
    async with (
        AsyncConnectionPool(dsn, min_size=1, max_size=10, open=False) as pool,
        open_hand(owner, owners_manager) as hand,
    ):
        bench = Bench(dsn, pool, owner.domain)
        yield Scene(bench, make_manager(bench), owner, owners_manager, hand)


# Who has written what, told by triggers: a statement that writes needs its privilege also when it finds no row.
WATCH = """
    CREATE TABLE public.used (role text, privilege text, relation text);
    CREATE FUNCTION public.watch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.used VALUES (current_setting('role'), TG_OP, TG_TABLE_NAME);
        RETURN NULL;
    END $$;
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT relname FROM pg_class WHERE relnamespace = 'commandbus'::regnamespace AND relkind = 'r' LOOP
            EXECUTE format('CREATE TRIGGER watch BEFORE INSERT OR UPDATE OR DELETE ON commandbus.%%I'
                           ' EXECUTE FUNCTION public.watch()', name);
        END LOOP;
    END $$"""

# What a role was granted, and nobody saw it use; of the functions those that its sessions called are counted.
UNUSED = """
    SELECT x.privilege_type, c.relname FROM pg_class c, aclexplode(c.relacl) x
     WHERE c.relnamespace = 'commandbus'::regnamespace AND x.grantee = %(role)s::text::regrole
       AND x.privilege_type <> 'SELECT'
    EXCEPT SELECT privilege, relation FROM public.used WHERE role = %(role)s::text
    UNION ALL
    SELECT 'EXECUTE', p.proname FROM pg_proc p, aclexplode(p.proacl) x
     WHERE p.pronamespace = 'commandbus'::regnamespace AND x.grantee = %(role)s::text::regrole
       AND NOT EXISTS (SELECT FROM pg_stat_user_functions f WHERE f.funcid = p.oid)
     ORDER BY 1, 2"""


@pytest.mark.parametrize("role", sorted(EVERYBODY))
async def test_a_role_does_its_verbs_and_no_others(owner: Bench, prefix: str, role: str) -> None:
    """Nor is it granted what none of its verbs needs."""
    await asyncio.to_thread(create_roles, owner.dsn, prefix=prefix)
    await owner.execute(WATCH)  # type: ignore[arg-type]
    wrong = []
    async with acting(owner, f"{prefix}_{role}") as scene:
        for name, (roles, act) in VERBS.items():
            try:
                await act(scene)
            except InsufficientPrivilege as error:
                if role in roles:
                    wrong.append(f"{name} was refused: {error.diag.message_primary}")
            else:
                if role not in roles:
                    wrong.append(f"{name} was allowed")
    assert not wrong, "\n".join(wrong)

    granted_for_nothing = [
        (privilege, name)
        for privilege, name in await unused_by(owner, f"{prefix}_{role}")
        if not await is_needed(owner, prefix, role, privilege, name)
    ]
    assert granted_for_nothing == []


async def unused_by(owner: Bench, role: str) -> list[tuple[str, str]]:
    """What nobody saw the role use: its sessions have told what they called once they are gone."""

    async def gone() -> bool | None:
        sessions = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s"
        return not await owner.execute(sessions, role) or None

    await eventually(gone, "the end of the role's sessions", patience=60)
    async with owner.pool.connection() as conn:
        return list(await (await conn.execute(UNUSED, {"role": role})).fetchall())


async def is_needed(owner: Bench, prefix: str, role: str, privilege: str, name: str) -> bool:
    """Whether some verb of the role is refused without it: what is locked or inlined is not seen to be used."""
    what = "FUNCTION" if privilege == "EXECUTE" else "TABLE"
    grantee, thing = sql.Identifier(f"{prefix}_{role}"), sql.Identifier("commandbus", name)
    words = {"privilege": sql.SQL(privilege), "kind": sql.SQL(what), "thing": thing, "role": grantee}
    async with owner.pool.connection() as conn:
        await conn.execute(sql.SQL("REVOKE {privilege} ON {kind} {thing} FROM {role}").format(**words))
    try:
        async with acting(owner, f"{prefix}_{role}") as scene:
            for verb_name, (roles, act) in VERBS.items():
                if role in roles and verb_name != "work":  # a worker that is refused something waits for another
                    await act(scene)
    except InsufficientPrivilege:
        return True
    finally:
        async with owner.pool.connection() as conn:
            await conn.execute(sql.SQL("GRANT {privilege} ON {kind} {thing} TO {role}").format(**words))
    return False


async def test_every_function_is_somebodys_and_none_is_everybodys(owner: Bench, prefix: str) -> None:
    """A later migration that adds one must revoke it from PUBLIC and give it to a role."""
    await asyncio.to_thread(create_roles, owner.dsn, prefix=prefix)
    rows = await owner.execute(
        """
        SELECT p.proname, has_function_privilege('public', p.oid, 'EXECUTE'),
               EXISTS (SELECT FROM pg_roles r
                        WHERE starts_with(r.rolname, %s) AND has_function_privilege(r.oid, p.oid, 'EXECUTE'))
          FROM pg_proc p WHERE p.pronamespace = 'commandbus'::regnamespace""",
        prefix,
    )
    assert len(rows) > 20
    assert [name for name, is_public, _ in rows if is_public] == []
    assert [name for name, _, is_granted in rows if not is_granted] == []


async def test_roles_are_brought_up_to_date_and_made_at_once_by_many(owner: Bench, prefix: str) -> None:
    await asyncio.gather(*[asyncio.to_thread(create_roles, owner.dsn, prefix=prefix) for _ in range(4)])
    auditor = sql.Identifier(f"{prefix}_auditor")
    async with owner.pool.connection() as conn:
        await conn.execute(sql.SQL("GRANT DELETE ON commandbus.event TO {}").format(auditor))
    names = await asyncio.to_thread(create_roles, owner.dsn, prefix=prefix)
    assert names == [f"{prefix}_{role.name}" for role in ROLES]
    assert await owner.execute("SELECT has_table_privilege(%s, 'commandbus.event', 'DELETE')", names[-1]) == [(False,)]


async def test_the_command_line_makes_them(owner: Bench, prefix: str) -> None:
    options = ["migrate", "--dsn", owner.dsn, "--roles"]
    result = await asyncio.to_thread(CliRunner().invoke, main, [*options, "--role-prefix", prefix])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == ["nothing to do", *[f"role {prefix}_{role.name}" for role in ROLES]]
    for bad in ("x; DROP TABLE t", "p" * 60):
        result = await asyncio.to_thread(CliRunner().invoke, main, [*options, "--role-prefix", bad])
        assert result.exit_code == 1
        assert "is no valid name" in result.output


async def test_a_database_without_the_schema_is_refused(empty_dsn: str) -> None:
    with pytest.raises(SchemaError, match="commandbus migrate"):
        await asyncio.to_thread(create_roles, empty_dsn)
