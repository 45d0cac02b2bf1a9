"""The dashboard: what stands on it, and in a real browser."""

import httpx
import pytest
from playwright.sync_api import Page, expect


@pytest.mark.asyncio
async def test_an_empty_bus_has_a_dashboard_that_says_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.status_code == 200, answer.text
    assert "Nothing waits, and nobody works" in answer.text


@pytest.mark.browser
def test_the_dashboard_lives(page: Page) -> None:
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("data-live", "live")
    expect(page.locator("[data-charts]")).to_have_attribute("data-points", "180")
