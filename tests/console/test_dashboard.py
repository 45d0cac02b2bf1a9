"""The dashboard: what stands on it, where its charts come from, and that it follows the bus in a real browser."""

import re
from typing import Any, LiteralString
from uuid import uuid4

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from commandbus.history import history
from pytest_commandbus.database import Database
from tests.console.conftest import Served

STATISTICS: LiteralString = """
    INSERT INTO commandbus.worker_statistic
    SELECT date_trunc('second', clock_timestamp()) - n * interval '1 second', w, 'PlaceOrder',
           4, 3, 1, 2, 1, 0.3, '{100}', '{3}', 0.2, '{90}', '{2}'
      FROM generate_series(70, 129) AS n CROSS JOIN generate_series(1, 2) AS w"""


@pytest.mark.asyncio
async def test_an_empty_bus_has_a_dashboard_that_says_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200, answer.text
    assert "Nothing waits, and nobody works" in answer.text


@pytest.mark.cb_no_audit  # statistics without their workers
@pytest.mark.asyncio
async def test_charts_come_from_what_workers_stored(client: httpx.AsyncClient, cb_pool: Any) -> None:
    """Two workers, one minute: every second of it is in some point, once, whatever the steps."""
    async with cb_pool.connection() as conn:
        await conn.execute(STATISTICS)
    for seconds, step in ((900, 5), (900, 1), (3_600, 60)):
        points = await history(cb_pool, seconds=seconds, step=step)
        assert len(points) == seconds // step
        sums = {name: step * sum(getattr(p.rates, name) for p in points) for name in ("claimed", "completed", "failed")}
        assert sums == pytest.approx({"claimed": 480, "completed": 360, "failed": 120}), step
        assert sum(point.ran.count for point in points if point.ran) == 360
        assert sum(point.waited.count for point in points if point.waited) == 240
    for seconds, step in ((7, 5), (0, 5), (3_605, 5), (10, 0)):
        with pytest.raises(ValueError, match="multiple of step"):
            await history(cb_pool, seconds=seconds, step=step)
    lines = (await client.get("/dashboard/history.json")).json()
    assert 5 * sum(lines["completed"]) == pytest.approx(360)
    assert {len(line) for line in lines.values()} == {180}


@pytest.mark.cb_no_audit  # statistics without their workers
@pytest.mark.browser
@pytest.mark.slow
def test_times_are_of_24_hours_in_utc_and_where_the_reader_is(
    browser: Browser, served: Served, cb_database: Database
) -> None:
    with psycopg.connect(cb_database.dsn) as conn:
        conn.execute(STATISTICS)
    context = browser.new_context(base_url=served.url, timezone_id="Asia/Kolkata", locale="en-US")  # 12 hours, by habit
    page = context.new_page()
    page.goto("/")
    expect(page.locator("[data-charts]")).to_have_attribute("data-points", "180")
    expect(page.locator("[data-zones]")).to_have_text(
        re.compile(r"are UTC, below them those of Asia/(Kolkata|Calcutta)")
    )
    chart = page.locator(".chart").first
    chart.scroll_into_view_if_needed()
    chart.locator(".u-over").hover()
    told = chart.locator(".u-legend .u-value").first
    expect(told).to_have_text(re.compile(r"^\d\d:\d\d:\d\d UTC, \d\d:\d\d:\d\d here$"))
    told_utc, told_here = re.findall(r"(\d\d):(\d\d):", told.inner_text())
    minutes = [60 * int(hour) + int(minute) for hour, minute in (told_utc, told_here)]
    assert (minutes[1] - minutes[0]) % 1_440 == 330
    taken = page.locator(".foot time").first
    expect(taken).to_have_text(re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC (\w+,? )?\d\d:\d\d:\d\d GMT\+5:30$"))
    context.close()


@pytest.mark.cb_no_audit  # statistics without their workers
@pytest.mark.browser
@pytest.mark.slow
def test_the_dashboard_follows_the_bus_and_a_reload_keeps_its_charts(
    page: Page, served: Served, cb_database: Database
) -> None:
    with psycopg.connect(cb_database.dsn) as conn:
        conn.execute(STATISTICS)
    page.goto("/")
    for _ in range(2):
        expect(page.locator("html")).to_have_attribute("data-live", "live")
        expect(page.locator("[data-charts]")).to_have_attribute("data-points", "180")
        expect(page.locator(".chart canvas")).to_have_count(3)
        page.reload()
    expect(page.locator("[data-figure=backlog]")).to_have_text("0")
    bus = served.console.bus
    served.call(bus.send(domain="orders", command_type="PlaceOrder", command_id=uuid4(), data={}))
    expect(page.locator("[data-figure=backlog]")).to_have_text("1")
    expect(page.locator("#table-domains")).to_contain_text("orders")
