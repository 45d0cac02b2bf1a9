"""The API of process batches: what is made, what is refused and where, what is marked."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus
from tests.e2e.app.creating import AT_A_TIME, BatchCreator, ClientGoneError, TooManyError
from tests.e2e.app.process.statement_report import DOMAIN
from tests.e2e.conftest import PATIENCE

Pool = AsyncConnectionPool[Any]
ASKED = {
    "count": 3,
    "from_date": "2026-05-01",
    "to_date": "2026-05-31",
    "account_list": ["ACC-0001", "ACC-0002"],
    "output_type": "csv",
}
BROKEN = {"render": {"fail_permanent_pct": 100}, "query": {"fail_transient_times": 1}}

pytestmark = pytest.mark.asyncio


async def rows(pool: Pool, statement: Any, *values: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as conn:
        found: list[tuple[Any, ...]] = await (await conn.execute(statement, values)).fetchall()
        return found


async def until(look: Callable[[], Any]) -> Any:
    """Poll until `look` finds something."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.02)


async def test_a_batch_with_behavior_from_the_request_to_the_end_of_its_processes(
    api: httpx.AsyncClient, cb_pool: Pool, cb_worker_pool: Any, cb_clock: Any, own_files: Any
) -> None:
    answer = await api.post("/api/processes/batch", json=ASKED | {"behavior": BROKEN, "name": "broken"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["total_count"], made["completed_count"], len(made["processes"])) == (3, 0, 3)
    batch_id = made["batch_id"]
    assert await rows(cb_pool, "SELECT batch_type, name FROM commandbus.batch") == [("PROCESS", "broken")]
    # in the state of each process, and in a row for each first command, stored with it
    assert await rows(cb_pool, "SELECT state->'behavior' FROM commandbus.process") == [(BROKEN,)] * 3
    stored = await rows(cb_pool, "SELECT behavior, payload->>'process_step' FROM e2e.test_command")
    assert stored == [({"fail_transient_times": 1}, "StatementQuery")] * 3

    async def parked() -> dict[str, Any] | None:
        await cb_clock.skip()  # to the retry
        seen = (await api.get(f"/api/batches/{batch_id}")).json()
        return seen if seen["in_troubleshooting_count"] == 3 else None

    async with cb_worker_pool(workers=1, processes=False):
        seen = await until(parked)
    assert seen["creation"] == {"requested": 3, "created": 3, "state": "COMPLETE", "error": None}
    page = (await api.get(made["processes_url"], params={"status": "WAITING_FOR_TSQ", "limit": 2})).json()
    rest = (await api.get(made["processes_url"], params={"cursor": page["next_cursor"], "limit": 2})).json()
    assert [one["ordinal"] for one in page["processes"] + rest["processes"]] == [0, 1, 2]
    shown = (await api.get(f"/api/processes/{page['processes'][0]['process_id']}")).json()
    assert [(one["step"], one["status"]) for one in shown["timeline"]] == [
        ("StatementQuery", "COMPLETED"),
        ("StatementDataAggregation", "COMPLETED"),
        ("StatementRender", "IN_TROUBLESHOOTING_QUEUE"),
    ]
    assert [one["behavior"] and one["behavior"]["fail_permanent_pct"] for one in shown["timeline"]] == [0, None, 100]
    assert shown["behavior"]["query"]["fail_transient_times"] == 1


@pytest.mark.parametrize("behavior", [None, {}, {"query": None}])
async def test_without_behavior_none_is_stored(api: httpx.AsyncClient, cb_pool: Pool, behavior: Any) -> None:
    assert (await api.post("/api/processes/batch", json=ASKED | {"behavior": behavior})).status_code == 201
    assert await rows(cb_pool, "SELECT count(*) FROM e2e.test_command") == [(0,)]
    assert await rows(cb_pool, "SELECT DISTINCT state->>'behavior' FROM commandbus.process") == [(None,)]


WRONG = [
    ({"count": 100_001}, "count", "at most 100,000"),
    ({"count": 0}, "count", "greater than or equal to 1"),
    ({"to_date": "2026-04-30"}, "to_date", "exchange them"),
    ({"account_list": []}, "account_list", "at least 1"),
    ({"account_list": ["ACC-9999"]}, "account_list", "the ledger has no account ACC-9999"),
    ({"account_list": ["ACC-0001", "ACC-0001"]}, "account_list", "named twice"),
    ({"output_type": "docx"}, "output_type", "pdf"),
    ({"behavior": {"render": {"timeout_pct": 101}}}, "timeout_pct", "less than or equal to 100"),
    ({"behavior": {"rendre": {}}}, "rendre", "not permitted"),
    ({"colour": "red"}, "colour", "not permitted"),
]


async def test_what_is_wrong_is_told_at_its_field_and_nothing_is_stored(api: httpx.AsyncClient, cb_pool: Pool) -> None:
    for changes, field, told in WRONG:
        answer = await api.post("/api/processes/batch", json=ASKED | changes)
        assert answer.status_code == 422, answer.text
        (problem,) = answer.json()["detail"]
        assert problem["loc"][0] == "body"
        assert problem["loc"][-1] == field
        assert told in problem["msg"]
    assert await rows(cb_pool, "SELECT count(*) FROM commandbus.batch") == [(0,)]
    for path in (f"/api/batches/{uuid4()}", f"/api/batches/{uuid4()}/processes", f"/api/processes/{uuid4()}"):
        assert (await api.get(path)).status_code == 404, path


async def test_a_large_batch_leaves_the_loop_free_and_is_there_all_or_none(
    api: httpx.AsyncClient, cb_pool: Pool
) -> None:
    """By order of events, not by time: others are answered between its chunks, and nobody sees a part of it."""
    await asyncio.gather(*(rows(cb_pool, "SELECT pg_sleep(0.1)") for _ in range(4)))  # so many connections are open now
    making = asyncio.create_task(api.post("/api/processes/batch", json=ASKED | {"count": 5_000}))
    healthy, seen = 0, []
    while not making.done():
        assert (await api.get("/health")).json() == {"status": "ok"}
        healthy += 1
        seen += await rows(cb_pool, "SELECT count(*) FROM commandbus.process")
    made = making.result().json()
    assert (made["total_count"], len(made["processes"])) == (5_000, 100)
    assert {count for (count,) in seen} <= {0, 5_000}
    assert (0,) in seen
    assert healthy > 1
    ordinals, cursor = [], {}
    while cursor is not None:
        page = (await api.get(made["processes_url"], params={"limit": 1_000, **cursor})).json()
        ordinals += [one["ordinal"] for one in page["processes"]]
        cursor = None if page["next_cursor"] is None else {"cursor": page["next_cursor"]}
    assert ordinals == list(range(5_000))


async def test_a_client_that_goes_away_leaves_a_batch_without_processes_that_is_marked_and_ends(cb_pool: Pool) -> None:
    creator, bus = BatchCreator(cb_pool), CommandBus(cb_pool)
    batch_id = await creator.begin(100_000, None)
    watched: list[int] = []

    async def gone_once_some_are_written() -> bool:
        note = await creator.read(batch_id)
        assert note is not None
        watched.append(note.created)
        return note.created > 0

    with pytest.raises(ClientGoneError, match="of 100,000 were written"):
        await creator.fill(batch_id, 100_000, ASKED | {"behavior": None}, gone_once_some_are_written)
    assert 0 < watched[-1] < 100_000
    note = await creator.read(batch_id)
    assert note is not None
    assert (note.state, note.requested, note.created) == ("ABANDONED", 100_000, 0)
    assert await rows(cb_pool, "SELECT count(*) FROM commandbus.process") == [(0,)]
    assert await rows(cb_pool, "SELECT count(*) FROM commandbus.queue") == [(0,)]
    batch = await bus.get_batch(DOMAIN, batch_id)
    assert (batch.status.is_final, batch.total_count, batch.canceled_count) == (True, 0, 0)


async def test_a_server_that_ends_marks_what_it_was_making_and_a_dead_one_is_noticed(
    api: httpx.AsyncClient, cb_pool: Pool
) -> None:
    creator = BatchCreator(cb_pool)
    first, second = [await creator.begin(100_000, None) for _ in range(AT_A_TIME)]
    creator.fill_later(first, 100_000, ASKED | {"behavior": None})
    await until(lambda: rows(cb_pool, "SELECT 1 FROM app.creation WHERE created > 0"))
    with pytest.raises(TooManyError, match="being made already"):
        await creator.begin(1, None)
    await creator.close()
    note = (await api.get(f"/api/batches/{first}")).json()["creation"]
    assert (note["state"], note["created"], note["error"]) == ("INTERRUPTED", 0, "the server was ended")
    assert await rows(cb_pool, "SELECT count(*) FROM commandbus.process") == [(0,)]
    await rows(cb_pool, "UPDATE app.creation SET touched_at = touched_at - interval '1 hour' RETURNING 1")
    assert await _state(api, second) == "INTERRUPTED"
    for batch_id in (first, second):
        await CommandBus(cb_pool).cancel_batch(DOMAIN, batch_id)


async def _state(api: httpx.AsyncClient, batch_id: UUID) -> str:
    return str((await api.get(f"/api/batches/{batch_id}")).json()["creation"]["state"])


async def test_profiles_are_kept_and_a_preview_follows_the_rolls(api: httpx.AsyncClient) -> None:
    saved = await api.put("/api/chaos-profiles/flaky-render", json=BROKEN)
    assert saved.status_code == 200
    assert [one["name"] for one in (await api.get("/api/chaos-profiles")).json()] == ["flaky-render"]
    assert (await api.put("/api/chaos-profiles/Flaky!", json=BROKEN)).status_code == 422
    assert (await api.delete("/api/chaos-profiles/flaky-render")).status_code == 204
    assert (await api.delete("/api/chaos-profiles/flaky-render")).status_code == 404
    behavior = {
        "query": {"fail_permanent_pct": 10, "fail_business_rule_pct": 50},
        "render": {"fail_transient_pct": 50},
    }
    seen = (await api.post("/api/processes/preview", json={"count": 1_000, "behavior": behavior})).json()
    # query: 100 park, half of the others are refused; render: an eighth of 450 fails three times in a row
    assert (seen["canceled"], seen["in_troubleshooting"], seen["completed"]) == (450, 156.25, 393.75)
    assert seen["retries"] == 450 * (0.5 + 0.25)
