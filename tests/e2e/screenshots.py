"""Pictures of all pages and of a load report, with real data, in four looks: `python -m tests.e2e.screenshots FOLDER`.

Workers run batches with behavior and a load test; then a browser follows the links from the dashboard. `make docs`
shows some of those that `make screenshots` has left.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import Browser, sync_playwright
from psycopg_pool import AsyncConnectionPool

from tests.console.conftest import LOOKS, PATIENCE, Served, find_chromium
from tests.console.walking import walk
from tests.e2e.app.api.schemas import ProcessBatchCreateRequest
from tests.e2e.app.asgi import create_asgi
from tests.e2e.app.bulk import Distribution, send_bulk
from tests.e2e.app.creating import BatchCreator
from tests.e2e.app.database import open_database, store_seed
from tests.e2e.app.files import VARIABLE
from tests.e2e.app.models import ProcessStepBehavior
from tests.e2e.app.profiles import ChaosProfiles
from tests.e2e.app.workers import worker_processes

ROOT = Path(__file__).parents[2]
TIME_ZONE = "Europe/Vienna"  # so that a local time stands beside each
BEHAVIOR = {"query": {"fail_transient_times": 1, "max_duration_ms": 40}, "render": {"fail_permanent_pct": 20}}
MAY = {"from_date": "2026-05-01", "to_date": "2026-05-31", "account_list": ["ACC-0001", "ACC-0002"]}
_IS_QUIET = """
    SELECT NOT EXISTS (SELECT FROM commandbus.queue) AND NOT EXISTS (SELECT FROM commandbus.scheduled)
       AND (SELECT max(second) FROM commandbus.worker_statistic) < clock_timestamp() - interval '15 seconds'"""


async def play(dsn: str) -> None:
    """Fill the bus by real work, until nothing is left to do and the charts have it."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False) as pool:
        await store_seed(pool, 7)
        creator = BatchCreator(pool)
        for name, count, behavior in (("May, with trouble", 60, BEHAVIOR), ("May", 40, None)):
            asked = ProcessBatchCreateRequest.model_validate(
                MAY | {"count": count, "output_type": "csv", "behavior": behavior, "name": name}
            )
            batch_id = await creator.begin(asked.count, asked.name)
            await creator.fill(batch_id, asked.count, asked.initial_data(), _stays)
        await send_bulk(pool, 2_000, Distribution(90, 5, 5).behaviors(2_000, 2))
        await ChaosProfiles(pool).save("broken-render", ProcessStepBehavior.model_validate(BEHAVIOR))
        async with worker_processes(dsn, 2), asyncio.timeout(5 * PATIENCE):
            while True:
                if await _is_quiet(pool):
                    break
                await asyncio.sleep(0.5)


async def _stays() -> bool:
    return False


async def _is_quiet(pool: AsyncConnectionPool[Any]) -> bool:
    async with pool.connection() as conn:
        return await (await conn.execute(_IS_QUIET)).fetchone() == (True,)


def take(browser: Browser, served: Served, look: str, folder: Path) -> int:
    """Take a picture of one page of each kind; returns how many."""
    context = browser.new_context(
        base_url=served.url, reduced_motion="reduce", timezone_id=TIME_ZONE, locale="en-US", **LOOKS[look]
    )
    page, pages = context.new_page(), 0
    for kind in walk(page, served.url, of_a_kind=1, at_most=60):
        if page.locator("[data-charts]").count():
            page.locator("[data-points]").wait_for()
        for closed in page.locator("details.chaos:not([open]) > summary").all():
            closed.click()
        name = kind.strip("/").replace("/", "_").replace("*", "one") or "dashboard"
        page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
        pages += 1
    context.close()
    return pages


def report_load(path: Path) -> None:
    """Leave the HTML report of a load test with chaos."""
    options = ["-q", "--cb-load=1000", "--cb-seed=7", f"--cb-report={path}"]
    command = [sys.executable, "-m", "pytest", "tests/e2e/test_load.py", *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise click.ClickException(f"the load test failed:\n{run.stdout}{run.stderr}")


def take_report(browser: Browser, report: Path, look: str, folder: Path) -> None:
    """Take a picture of a load report."""
    context = browser.new_context(reduced_motion="reduce", locale="en-US", **LOOKS[look])
    page = context.new_page()
    page.goto(report.as_uri())
    page.screenshot(path=folder / f"load_report-{look}.png", full_page=True)
    context.close()


@click.command()
@click.option("--look", "looks", multiple=True, type=click.Choice([*LOOKS]), help="Repeatable.  [default: all]")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path, looks: Sequence[str]) -> None:
    """Fill an embedded PostgreSQL by real work, and take pictures of every page and of a load report."""
    executable = find_chromium()
    if executable is None:
        raise click.ClickException("no chromium on this machine: install it, or name it by CHROMIUM")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as files, open_database(is_kept=False) as dsn:
        os.environ[VARIABLE] = files
        asyncio.run(play(dsn))
        report_load(report := Path(files) / "load.html")
        with Served(dsn, create_asgi) as served, sync_playwright() as playwright:
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            with playwright.chromium.launch(executable_path=executable, args=options) as browser:
                for look in looks or LOOKS:
                    take_report(browser, report, look, folder)
                    click.echo(f"{look}: {take(browser, served, look, folder) + 1} pictures in {folder}")


if __name__ == "__main__":
    main()
