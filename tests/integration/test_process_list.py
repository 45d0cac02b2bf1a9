"""Listings of processes: each once, in the order in which they were started, no call looking at too many."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import BusinessRuleError, CommandBusError
from commandbus.process import ProcessRepository, ProcessStatus, repository
from tests.integration.process_kit import make_manager, open_hand
from tests.integration.test_plans import faults, fill, quiet_dsn, watched
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

__all__ = ["quiet_dsn"]

REFUSED = BusinessRuleError("NO", "no")


async def pages(repo: ProcessRepository, **options: Any) -> list[list[int | None]]:
    """The ordinals of each page."""
    found, cursor = [], None
    while True:
        page = await repo.list_processes(cursor=cursor, **options)
        found.append([process.ordinal for process in page.items])
        if (cursor := page.next_cursor) is None:
            return found


async def started(bench: Bench, manager: Any, count: int) -> UUID:
    batch_id = await bench.bus.create_process_batch(bench.domain, count)
    await manager.start_many([{"order": n} for n in range(count)], batch_id)
    return batch_id


@pytest.fixture(params=["few", "many"])
def _size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are small ones, whose processes are all sorted for a page, or large ones, which are walked through."""
    if request.param == "many":
        monkeypatch.setattr(repository, "_FEW", 0)


@pytest.mark.usefixtures("_size")
async def test_a_batch_is_listed_in_pages(bench: Bench) -> None:
    manager, repo = make_manager(bench), ProcessRepository(bench.pool)
    batch_id, other = await started(bench, manager, 7), await started(bench, manager, 2)
    assert await pages(repo, batch_id=batch_id, limit=3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert await pages(repo, batch_id=batch_id, limit=7) == [[*range(7)], []]
    assert await pages(repo, batch_id=other) == [[0, 1]]
    assert await pages(repo, batch_id=uuid4()) == [[]]


async def test_the_newest_first(bench: Bench) -> None:
    manager, repo = make_manager(bench), ProcessRepository(bench.pool)
    batch_id = await started(bench, manager, 5)
    await started(bench, make_manager(bench, process_type="another"), 1)
    found = await pages(repo, domain=bench.domain, process_type=manager.process_type, newest_first=True, limit=2)
    assert [ordinal for page in found for ordinal in page] == [4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="leave newest_first out"):
        await repo.list_processes(batch_id, newest_first=True)


@pytest.mark.usefixtures("_size")
async def test_a_listing_by_status_and_type(bench: Bench) -> None:
    manager, repo = make_manager(bench), ProcessRepository(bench.pool)
    batch_id = await started(bench, manager, 5)
    async with open_hand(bench, manager) as hand:
        await hand.settle(*[(claimed, REFUSED) for claimed in await hand.claim(2)])
    waiting, ended = ProcessStatus.WAITING_FOR_REPLY, ProcessStatus.CANCELED
    assert await pages(repo, batch_id=batch_id, status=waiting, limit=2) == [[2, 3], [4]]
    assert await pages(repo, batch_id=batch_id, status=ended) == [[0, 1]]
    assert await pages(repo, batch_id=batch_id, process_type="another") == [[]]
    found = await pages(repo, process_type=manager.process_type, status=waiting, limit=2)
    assert [ordinal for page in found for ordinal in page] == [2, 3, 4]


async def test_a_call_looks_at_no_more_than_it_may(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "_MOST_LOOKED_AT", 3)
    monkeypatch.setattr(repository, "_FEW", 0)
    manager, repo = make_manager(bench), ProcessRepository(bench.pool)
    batch_id = await started(bench, manager, 7)
    async with open_hand(bench, manager) as hand:
        await hand.settle(*[(claimed, REFUSED) for claimed in (await hand.claim(5))[4:]])
    assert await pages(repo, batch_id=batch_id, status=ProcessStatus.CANCELED) == [[], [4], []]


@pytest.mark.parametrize("cursor", ["", "nonsense", "W10"])
async def test_a_cursor_of_no_page_is_refused(bench: Bench, cursor: str) -> None:
    with pytest.raises(CommandBusError, match="next_cursor"):
        await ProcessRepository(bench.pool).list_processes(cursor=cursor)


@pytest.mark.parametrize("limit", [0, 1_001])
async def test_a_limit_out_of_range_is_refused(bench: Bench, limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be 1 to 1,000"):
        await ProcessRepository(bench.pool).list_processes(limit=limit)


async def test_a_page_of_all_looks_at_no_more(quiet_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "_MOST_LOOKED_AT", 50)
    async with watched(quiet_dsn, analyzed="after it was filled") as (hand, plans):
        fill(quiet_dsn, "third", "Third", 100)
        repo = ProcessRepository(hand.bench.pool)
        for status in (None, ProcessStatus.FAILED):
            cursor = None
            for _ in range(7):
                page = await repo.list_processes(status=status, limit=20, cursor=cursor, conn=hand.conn)
                cursor = page.next_cursor
                assert cursor is not None
    assert plans
    assert faults(plans) == []
