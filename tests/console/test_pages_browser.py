"""What operators do on the pages, in a real browser: from a failed process to its retry, and watching a batch."""

import re
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from commandbus import App, CommandBus, CommandStatus, SendRequest, TroubleshootingQueue
from pytest_commandbus.database import Database
from tests.console.conftest import PATIENCE
from tests.console.shop import Played, Pool, fill, in_thread, make_shop, work

pytestmark = [pytest.mark.browser, pytest.mark.slow]
expect.set_options(timeout=PATIENCE * 1_000)


@pytest.fixture
def console_app() -> App:
    return make_shop()


@pytest.fixture
def played(console_app: App, cb_database: Database) -> Played:
    return in_thread(cb_database.dsn, lambda pool: fill(console_app, pool))


def status_of(database: Database, played: Played, trouble: str) -> CommandStatus:
    command_id = played.commands[trouble]
    return in_thread(database.dsn, lambda pool: CommandBus(pool).get_command(command_id)).status


def test_from_a_failed_process_to_its_retry(
    played: Played, page: Page, console_app: App, cb_database: Database
) -> None:
    """An operator opens a process that failed, sees why, retries its step, and sees the process go on."""
    page.goto("/")
    page.get_by_role("link", name="Processes", exact=True).click()
    page.get_by_label("Status").select_option("WAITING_FOR_TSQ")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile("status=WAITING_FOR_TSQ"))
    page.locator(f'a[href$="{played.processes["transient"]}"]').click()
    expect(page.get_by_text("BANK_TIMEOUT").first).to_be_visible()
    expect(page.locator(".scale rect.bar-failed")).to_have_count(3)
    page.get_by_role("link", name="Retry Pay").click()
    page.get_by_label("Why, for the audit trail").fill("the bank is back")
    page.get_by_role("button", name="Retry 1 parked command").press("Enter")
    expect(page.locator("[data-toast]")).to_have_text("Retried 1 parked command.")
    expect(page.get_by_text(": the bank is back")).to_be_visible()

    in_thread(cb_database.dsn, lambda pool: work(console_app, pool))
    page.get_by_role("link", name=str(played.processes["transient"])).click()
    expect(page.locator(".scale rect.bar-failed")).to_have_count(6)


def test_choosing_parked_commands(played: Played, page: Page, cb_database: Database) -> None:
    """Rows are ticked, or all that match are chosen; each way leads to a question that says how many."""
    page.goto("/troubleshooting?limit=25")
    retry = page.get_by_role("button", name="Retry")
    expect(retry).to_be_disabled()
    page.get_by_label(f"Choose SendMail {played.commands['permanent']}").check()
    expect(page.locator("[data-selected]")).to_have_text("1 chosen")
    page.locator("[data-select-all]").check()
    expect(page.locator("[data-selected]")).to_have_text("4 chosen")
    page.locator("[data-select-all]").uncheck()
    expect(retry).to_be_disabled()
    page.get_by_label(f"Choose SendMail {played.commands['permanent']}").check()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel 1 parked command").click()
    expect(page.locator("[data-toast]")).to_have_text("Cancelled 1 parked command.")
    assert status_of(cb_database, played, "permanent") is CommandStatus.CANCELED
    assert status_of(cb_database, played, "transient") is CommandStatus.IN_TROUBLESHOOTING_QUEUE


def test_all_that_match_are_chosen(played: Played, page: Page, console_app: App, cb_database: Database) -> None:
    async def more(pool: Pool) -> None:
        mails = [SendRequest("mail", "SendMail", uuid4(), {"trouble": "permanent"}) for _ in range(28)]
        await CommandBus(pool).send_batch(mails)
        await work(console_app, pool)

    in_thread(cb_database.dsn, more)
    page.goto("/troubleshooting?limit=25&error_code=CARD_EXPIRED")
    page.get_by_label("Select all 30 matching").check()
    expect(page.locator("[data-selected]")).to_have_text("All that match are chosen")
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("button", name="Retry 30 parked commands").click()
    expect(page.locator("[data-toast]")).to_have_text("Retried 30 parked commands.")
    expect(page.get_by_text("Nothing is parked that this finds")).to_be_visible()


def test_a_batch_is_watched(played: Played, page: Page, cb_database: Database) -> None:
    """Its figures change by themselves, unless that is switched off."""
    page.goto(f"/batches/{played.command_batch}")
    parked = page.locator('[data-figure="parked"]')
    expect(parked).to_have_text("2")

    def complete(trouble: str) -> None:
        command_id = played.commands[trouble]
        in_thread(cb_database.dsn, lambda pool: TroubleshootingQueue(pool).operator_complete(command_id))

    complete("permanent")
    expect(parked).to_have_text("1")
    page.get_by_role("switch").click()
    expect(page.get_by_role("switch")).to_have_attribute("aria-checked", "false")
    expect(page.locator("[hx-trigger]")).to_have_count(0)
    page.get_by_role("switch").click()
    complete("transient")
    expect(parked).to_have_text("0")
    expect(page.locator("#batch-now .badge")).to_have_text("completed with failures")
