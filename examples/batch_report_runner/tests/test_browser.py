"""The whole flow in a real browser."""

import os
import re
import shutil

import pytest
import pytest_asyncio
from conftest import ANN
from playwright.async_api import async_playwright, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("CB_BROWSER_TESTS") != "required",
        reason="no Chromium (Debian: apt-get install chromium)",
    ),
]
expect.set_options(timeout=60_000)


@pytest_asyncio.fixture
async def page(site):
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = await browser.new_page()
        opened.set_default_timeout(60_000)
        problems = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
        await opened.goto(f"{site.url}/login")
        await opened.fill("input[name=token]", ANN)
        await opened.click("button.primary")
        yield opened
        await browser.close()
        assert problems == []


@pytest.mark.chaos(FetchFigures={"fail_business_rule_pct": 40, "min_duration_ms": 200, "max_duration_ms": 300})
async def test_choose_preview_start_watch_cancel_and_read(site, page, cb_worker_pool, cb_pool):
    await expect(page.locator("#rows tr")).to_have_count(50)
    async with cb_pool.connection() as conn:  # a lead whose name would like to be a script
        await conn.execute("UPDATE report.lead SET name = '<img src=x onerror=alert(1)>' WHERE lead_id = 1")
    await page.reload()
    await expect(page.locator("#rows tr").first).to_contain_text("<img src=x onerror=alert(1)>")
    assert await page.locator("#rows img").count() == 0
    await page.locator("#rows input").nth(0).check()
    await page.locator("#rows input").nth(1).check()
    await expect(page.locator("#count")).to_have_text("2")
    await page.click("#none")
    await expect(page.locator("#count")).to_have_text("0")
    await page.select_option("select[name=tier]", "A")
    await page.select_option("select[name=status]", "new")
    await page.fill("input[name=from]", "2026-01-01")
    await expect(page.locator("#total")).not_to_have_text("1200")
    await page.click("#all")
    total = int(await page.locator("#total").inner_text())
    await expect(page.locator("#count")).to_have_text(str(total))
    await page.click("#preview")
    await expect(page.locator("#q-total")).to_have_text(re.compile(r"^\d+\.\d\d USD$"))
    await page.click("#start")
    await page.wait_for_url("**/batches/*")
    await expect(page.locator("#status")).to_have_text("PROCESSING")
    await expect(page.locator("#live")).to_have_text("live")
    async with cb_worker_pool(workers=1, concurrency=2):
        await expect(page.locator("#latest")).to_be_visible()  # told by the socket: the page asks only once
        await expect(page.locator("#succeeded")).not_to_have_text("0")
        await expect(page.locator("#rows")).to_contain_text("DONE")  # the list goes along
        await expect(page.locator("#chart")).to_have_attribute(
            "aria-label", re.compile(r"[1-9]\d* of \d+ leads succeeded")
        )
        await page.click("#cancel")
        await expect(page.locator("#status")).to_have_text(re.compile("CANCELLED|COMPLETED_WITH_ERRORS"))
    await expect(page.locator("#processed")).to_have_text(f"{total} of {total}")
    done, failed = [await page.locator(f"#{name}").inner_text() for name in ("succeeded", "failed")]
    course = re.compile(f"{done} of {total} leads succeeded and {failed} failed")
    await expect(page.locator("#chart")).to_have_attribute("aria-label", course)
    async with page.expect_download() as download:
        await page.click("#errors")
    assert "CHAOS_BUSINESS_RULE" in (await (await download.value).path()).read_text()
    await page.select_option("#show", "DONE")
    report = page.locator("#rows a").first
    answer = await page.request.get(site.url + await report.get_attribute("href"))
    assert (await answer.body()).startswith(b"%PDF-")
    await page.goto(f"{site.url}/batches")
    await expect(page.locator("#rows tr")).to_have_count(1)


async def test_every_page_fits_a_phone(site, page):
    await site.start(1)
    await page.set_viewport_size({"width": 375, "height": 812})
    for path in ("/", "/batches", "/login"):
        await page.goto(site.url + path)
        await page.wait_for_load_state("networkidle")
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 375, path
