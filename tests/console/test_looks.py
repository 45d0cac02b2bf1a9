"""Every page in a real browser: nothing hostile runs, nobody is kept out, it fits a phone, it is light and dark."""

import os

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from pytest_commandbus.database import Database
from tests.console.conftest import LOOKS, Served, Watched, keep_picture
from tests.console.hostile import MIXED, PAYLOADS, fill, has_payload
from tests.console.walking import walk

# what fills the database here is nothing a bus would write
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.cb_no_audit]

WORDS = [f"{what}{n}" for n in range(1, 4) for what in ("orders", "billing", "shipping")]
TOO_WIDE = """body => [...body.querySelectorAll('*')].filter(e => !e.closest('.table, .unseen, .skip, dialog')
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"""


def injected(page: Page) -> list[str]:
    """The elements and attributes that only a hostile text can have made."""
    found: list[str] = page.eval_on_selector_all(
        "[data-xss], [hx-on\\:\\:before-request]", "all => all.map(e => e.outerHTML)"
    )
    return found


def visit_hostile(browser: Browser, served: Served, *, of_a_kind: int, at_most: int) -> dict[str, int]:
    """Walk with the policy switched off, so that it hides nothing that the pages forgot to escape."""
    context = browser.new_context(base_url=served.url, bypass_csp=True, viewport={"width": 1280, "height": 900})
    watched, shown = Watched(context), dict[str, int]()
    for kind in walk(watched.page, served.url, of_a_kind=of_a_kind, at_most=at_most, refusals=True):
        assert injected(watched.page) == [], kind
        shown[kind] = shown.get(kind, 0) + has_payload(watched.page.evaluate("document.documentElement.textContent"))
    context.close()
    assert [problem for problem in watched.problems if "status of 422" not in problem] == []
    return shown


def test_200_hostile_texts_are_shown_as_texts(browser: Browser, served: Served, cb_database: Database) -> None:
    assert len(set(PAYLOADS)) == 200
    fill(cb_database.dsn, PAYLOADS)
    shown = visit_hostile(browser, served, of_a_kind=1, at_most=1)
    assert shown == {"/": 1}
    context = browser.new_context(base_url=served.url)
    page = context.new_page()
    page.goto("/")
    text = page.evaluate("document.body.textContent")
    assert [payload for payload in PAYLOADS if payload not in text] == []
    context.close()


def test_no_page_runs_what_it_shows(browser: Browser, served: Served, cb_database: Database) -> None:
    """All kinds of pages, with the hostile texts in every field of the database."""
    fill(cb_database.dsn, [*MIXED, *PAYLOADS])
    shown = visit_hostile(browser, served, of_a_kind=3, at_most=60)
    assert shown["/"] == 1
    idle = [kind for kind, count in shown.items() if not count and not kind.endswith(("/act", "/cancel"))]
    assert idle == [], "a page that shows nothing proves nothing; what only asks for confirmation shows ids and counts"


def test_the_policy_stops_what_would_get_past_escaping(watched: Watched) -> None:
    watched.page.goto("/")
    watched.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=alert(1)><p style=color:red id=styled>')"
    )
    refused = watched.page.evaluate(
        """() => new Promise(found => {
            document.addEventListener('securitypolicyviolation', event => found(event.effectiveDirective));
            setTimeout(() => found('nothing was refused'), 30_000);
            document.body.append(Object.assign(document.createElement('script'), {textContent: 'alert(2)'}));
        })"""
    )
    assert refused.startswith("script-src")
    assert not any(problem.startswith("dialog") for problem in watched.problems)
    watched.problems.clear()  # what the policy refused, as it should


def serious(page: Page) -> list[str]:
    """What axe finds serious or worse, one line for each place."""
    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def look_at(browser: Browser, served: Served, look: str, at_most: int) -> int:
    context = browser.new_context(base_url=served.url, reduced_motion="reduce", **LOOKS[look])
    watched, pages = Watched(context), 0
    for kind in walk(watched.page, served.url, of_a_kind=1, at_most=at_most):
        keep_picture(watched.page, f"{kind.replace('/', '_').replace('*', 'one')}-{look}")
        assert serious(watched.page) == [], (look, kind)
        assert watched.page.eval_on_selector("body", TOO_WIDE) == [], (look, kind)
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (look, kind)
        pages += 1
    context.close()
    assert watched.problems == []
    return pages


def test_the_dashboard_keeps_nobody_out_and_fits_a_phone(
    browser: Browser, served: Served, cb_database: Database
) -> None:
    fill(cb_database.dsn, WORDS)
    assert look_at(browser, served, "phone-dark", at_most=1) == 1


@pytest.mark.parametrize("look", LOOKS if os.environ.get("CB_SCREENSHOTS") else ["desktop-light", "phone-dark"])
def test_no_page_keeps_anybody_out_and_each_fits(
    browser: Browser, served: Served, cb_database: Database, look: str
) -> None:
    fill(cb_database.dsn, WORDS)
    assert look_at(browser, served, look, at_most=40) >= 1


def test_it_serves_the_keyboard_and_those_who_want_no_motion(browser: Browser, served: Served) -> None:
    context = browser.new_context(base_url=served.url, reduced_motion="reduce")
    page = context.new_page()
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("data-live", "live")
    assert page.locator(".dot").evaluate("dot => getComputedStyle(dot).animationName") == "none"
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("button", name="live").focus()
    page.keyboard.press("Space")
    expect(page.locator("html")).to_have_attribute("data-live", "paused")
    page.reload()
    expect(page.get_by_role("button", name="paused")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="paused").click()
    expect(page.locator("html")).to_have_attribute("data-live", "live")
    context.close()


def test_without_javascript_it_still_shows(browser: Browser, served: Served, cb_database: Database) -> None:
    fill(cb_database.dsn, WORDS)
    context = browser.new_context(base_url=served.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#table-workers")).to_contain_text("billing3")
    expect(page.get_by_role("button", name="live")).to_be_hidden()
    page.get_by_text("Per second, minute by minute").click()
    expect(page.get_by_role("region", name="Settled per second, by minute")).to_be_visible()
    context.close()
