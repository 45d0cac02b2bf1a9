"""The application in a real browser: a batch from the form to its end, and a load test that is stopped."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pytest_commandbus.database import Database
from tests.console.conftest import LOOKS, PATIENCE, Served, Watched, browser, keep_picture
from tests.console.test_looks import serious
from tests.e2e.app.asgi import create_asgi
from tests.e2e.app.files import VARIABLE

__all__ = ["browser"]  # a fixture of the console's tests

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def served(cb_database: Database) -> Iterator[Served]:
    """The application on the test's database, at an address."""
    with Served(cb_database.dsn, create_asgi) as found:
        yield found


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """A page of the application; a dialog, an error of a script or of the policy fails the test."""
    context = browser.new_context(base_url=served.url, viewport={"width": 1280, "height": 900})
    found = Watched(context)
    found.page.set_default_timeout(PATIENCE * 1_000)
    yield found.page
    context.close()
    assert [problem for problem in found.problems if "status of 422" not in problem] == []  # a form that was refused


@pytest.fixture
def worker(cb_database: Database, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process on the test's database."""
    command = [sys.executable, "-m", "tests.e2e.app.worker", "--poll-interval", "0.2"]
    environment = {**os.environ, "COMMANDBUS_DSN": cb_database.dsn, VARIABLE: str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


expect.set_options(timeout=PATIENCE * 1_000)


def test_a_batch_with_behavior_is_created_and_watched_until_it_has_ended(
    page: Page, worker: "subprocess.Popen[bytes]"
) -> None:
    page.goto("/create-process-batch")
    page.get_by_label("Processes", exact=True).fill("6")
    page.get_by_label("Output").select_option("csv")
    page.get_by_text("Behavior: what is to go wrong").click()
    slider = page.get_by_label("Render: Permanent failures, slider")
    slider.focus()
    page.keyboard.press("End")  # by keyboard: the number follows, and so does the preview
    expect(page.locator("[id='behavior.render.fail_permanent_pct']")).to_have_value("100")
    expect(page.locator("[data-expected=parked]")).to_have_text("6")
    page.get_by_text("Copy as pytest marker").click()
    expect(page.locator("#marker")).to_contain_text("render={'fail_permanent_pct': 100.0}")
    page.get_by_label("Processes", exact=True).fill("0")
    page.get_by_role("button", name="Create the batch").click()
    expect(page.locator("#count-error")).to_contain_text("greater than or equal to 1")
    page.get_by_label("Name of a profile").fill("all-broken")
    page.get_by_role("button", name="Save as profile").click()
    page.wait_for_url("**/create-process-batch?profile=all-broken")
    expect(page.locator("[id='behavior.render.fail_permanent_pct']")).to_have_value("100")
    page.get_by_label("Behavior to begin with").select_option("fails twice, then works")
    page.get_by_role("button", name="Use it").click()
    page.wait_for_url("**/create-process-batch?profile=preset*")
    expect(page.locator("[id='behavior.render.fail_permanent_pct']")).to_have_value("0")
    page.get_by_label("Behavior to begin with").select_option("all-broken")
    page.get_by_role("button", name="Use it").click()
    page.wait_for_url("**/create-process-batch?profile=all-broken")
    page.get_by_label("Output").select_option("csv")
    page.get_by_label("Processes", exact=True).fill("6")
    page.get_by_text("Copy as curl").click()
    expect(page.locator("#curl")).to_contain_text("/api/processes/batch")
    page.get_by_role("button", name="Create the batch").click()
    page.wait_for_url(re.compile("/process-batches/[0-9a-f-]{36}"))
    batch = page.url
    for _ in range(3):  # the page follows by itself; whatever it shows, the counts are those of the end
        page.goto(batch)
        expect(page.locator("main")).to_contain_text(re.compile("waiting for tsq", re.IGNORECASE))
    page.locator("main a[href*='/processes/']").first.click()
    expect(page.locator("main")).to_contain_text("Behavior that applied")
    expect(page.locator("main")).to_contain_text("CHAOS_PERMANENT")


def test_a_load_test_is_sent_watched_and_its_workers_are_stopped(page: Page, worker: "subprocess.Popen[bytes]") -> None:
    page.goto("/send-command")
    page.get_by_label("Commands", exact=True).fill("300")
    page.get_by_role("radio", name="Custom").check()
    page.locator("#success").fill("90")
    page.locator("#fail_permanent").fill("10")
    page.get_by_role("button", name="Send them").click()
    page.wait_for_url("**/load-test")
    expect(page.locator("[data-figure=pending]")).to_have_text("0")  # by itself
    expect(page.locator("[data-figure=completed]")).to_have_text("270")
    expect(page.locator("[data-figure=in_tsq]")).to_have_text("30")
    expect(page.locator("[data-figure=workers]")).to_have_text("2")
    expect(page.locator("[data-figure=remaining]")).to_have_text("nothing")
    keep_picture(page, "load-test-done")
    page.goto("/")  # the dashboard has the same figures, and the same button
    expect(page.locator("[data-figure=in_tsq]")).to_have_text("30")
    expect(page.locator("#metrics [data-figure=workers]")).to_have_text("2")
    page.get_by_role("button", name="Stop workers").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop workers").click()
    expect(page.locator(".toast")).to_contain_text("2 workers were asked to stop")
    assert worker.wait(PATIENCE) == 0
    expect(page.locator("#metrics [data-figure=workers]")).to_have_text("0")


@pytest.mark.parametrize("look", ["desktop-light", "phone-dark"])
def test_every_page_keeps_nobody_out_and_fits_the_screen(browser: Browser, served: Served, look: str) -> None:
    context = browser.new_context(base_url=served.url, reduced_motion="reduce", **LOOKS[look])
    page = context.new_page()
    for path in ("/", "/create-process-batch", "/send-command", "/load-test"):
        page.goto(path)
        if path == "/create-process-batch":
            page.get_by_text("Behavior: what is to go wrong").click()
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"{path} is {wide} px too wide"
        keep_picture(page, f"{look}-{path.strip('/') or 'dashboard'}")
        assert serious(page) == [], path
    context.close()
