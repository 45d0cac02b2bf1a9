"""The pages of batches, processes, commands, the troubleshooting queue and the audit trail: what they show."""

import html
import re
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from commandbus import App, CommandBus, SendRequest
from commandbus.web import ConsoleSettings, Panel, Site, create_console
from tests.console.conftest import client_of
from tests.console.pages.reading import Reader, line, links
from tests.console.shop import Played, Pool, fill

pytestmark = pytest.mark.asyncio

NOBODY = "0190163d-8694-739b-aea5-966c26f8ad91"


async def test_every_link_of_every_page_leads_somewhere(reader: Reader, played: Played) -> None:
    """Two pages of each kind are opened, for a start the lists."""
    parked = f"/commands/{played.commands['permanent']}"
    left = [parked, "/process-batches", "/batches", "/processes", "/commands", "/troubleshooting", "/audit"]
    opened: dict[str, set[str]] = {}
    for path in left:  # grows while it is gone through
        address = urlsplit(path)
        kind = re.sub(r"[0-9a-f-]{36}", "ID", address.path) + "".join(sorted(re.findall(r"(\w+)=", address.query)))
        seen = opened.setdefault(kind, set())
        if "/static/" in path or not path.startswith("/") or path in seen or len(seen) == 2:
            continue
        seen.add(path)
        answer = await reader.client.get(path, follow_redirects=True)
        assert answer.status_code == 200, f"{path}: {answer.status_code}\n{answer.text}"
        left += sorted(links(answer.text))
    paths = {
        "/process-batches/ID",
        "/batches/ID",
        "/processes/ID",
        "/commands/ID",
        "/troubleshooting/actactioncommand_id",
    }
    assert paths <= opened.keys()


async def test_a_prefix_is_kept_by_every_link_and_form(console_app: App, cb_pool: Pool, played: Played) -> None:
    asgi = create_console(console_app, cb_pool)
    transport = httpx.ASGITransport(asgi, root_path="/ops")
    options = {"base_url": "http://localhost", "headers": {"accept": "text/html"}}
    async with httpx.AsyncClient(transport=transport, **options) as client:
        command_id, process_id = played.commands["permanent"], played.processes["transient"]
        for path in (
            f"/commands/{command_id}",
            f"/processes/{process_id}",
            f"/process-batches/{played.process_batch}",
            "/troubleshooting",
            f"/troubleshooting/act?action=retry&command_id={command_id}",
        ):
            page = (await client.get(f"/ops{path}")).text
            targets = links(page) | set(re.findall(r'(?:action|src|hx-get)="([^"]+)"', page))
            assert targets
            assert {each for each in targets if not each.startswith("/ops/")} == set(), path


async def test_a_failed_process_tells_what_failed_and_why(reader: Reader, played: Played) -> None:
    process_id = played.processes["transient"]
    page = await reader.get(f"/processes/{process_id}")
    assert "It waits for an operator: the command of step Pay is parked." in page
    assert "BANK_TIMEOUT" in page
    assert "after 3 attempts" in page
    assert line(page) == f"commandbus audit {process_id}"
    assert f"/process-batches/{played.process_batch}" in links(page)
    bars = re.findall(r'<rect class="bar bar-(\w+)" x="([\d.]+)%"', page)
    kinds = [kind for kind, _ in bars]
    assert kinds.count("failed") == 3
    assert kinds[0] == "waited"
    assert kinds[-1] == "parked"
    assert [float(x) for _, x in bars] == sorted(float(x) for _, x in bars)
    assert "bar-parked" not in await reader.get(f"/processes/{process_id}?timeline=work")

    refused = await reader.get(f"/processes/{played.processes['refused']}")
    assert "A business rule refused it, and 1 step undone." in refused
    assert "NO_CREDIT" in refused
    assert "undoes" in refused


async def test_a_parked_command_tells_its_error_and_its_data(reader: Reader, played: Played) -> None:
    page = await reader.get(f"/commands/{played.commands['permanent']}")
    for text in (
        "CARD_EXPIRED",
        "the card expired in 04/2026",
        "PermanentCommandError",
        "…4711",
        "after 1 failed attempt",
    ):
        assert text in page
    assert f"/batches/{played.command_batch}" in links(page)
    assert "traceback" not in page


async def test_an_unexpected_exception_tells_where_its_traceback_is(
    reader: Reader, console_app: App, cb_pool: Pool
) -> None:
    crashed = await fill(console_app, cb_pool, ["crash"])
    page = await reader.get(f"/commands/{crashed.commands['crash']}")
    assert "RuntimeError: an unexpected state of the cart" in page
    assert re.search(r"The log of worker \d+ has the traceback, under the id of the command\.", page)


async def test_a_command_that_nobody_handles_says_so(reader: Reader, cb_pool: Pool) -> None:
    command_id = await CommandBus(cb_pool).send(domain="attic", command_type="Dust", command_id=uuid4(), data={})
    page = await reader.get(f"/commands/{command_id}")
    assert "no live worker handles Dust in attic" in page
    assert "commandbus worker MODULE:APP --domain attic" in page


async def test_lists_are_filtered_by_their_address(reader: Reader, played: Played) -> None:
    page = await reader.get("/commands?domain=mail&status=IN_TROUBLESHOOTING_QUEUE")
    rows = {path for path in links(page) if path.startswith("/commands/")}
    assert rows == {f"/commands/{played.commands[trouble]}" for trouble in ("transient", "permanent")}
    page = await reader.get(f"/processes?status=WAITING_FOR_TSQ&process_type=Order&batch_id={played.process_batch}")
    rows = {path for path in links(page) if path.startswith("/processes/")}
    assert rows == {f"/processes/{played.processes[trouble]}" for trouble in ("transient", "permanent")}
    page = await reader.get("/troubleshooting?error_code=CARD_EXPIRED&domain=orders")
    assert "1 of 1 parked commands that match" in page
    assert line(page) == "commandbus tsq list --domain orders --error-code CARD_EXPIRED"
    assert "No command matches" in await reader.get("/commands?domain=nobody")
    assert "Newsletter" not in await reader.get("/process-batches")
    assert "Orders of May" not in await reader.get("/batches")


MISTAKES = [
    ("/commands?status=BROKEN", "&#39;BROKEN&#39; is none"),
    ("/commands?created_after=yesterday", "&#39;yesterday&#39; is no time"),
    ("/commands?domain=a%00b", "domain"),
    ("/commands?cursor=nonsense", "names a place in the list that is none"),
    ("/processes?cursor=W10", "names a place in the list that is none"),
    ("/troubleshooting?batch_id=7", "&#39;7&#39; is no id"),
    ("/process-batches?status=x&cursor=y", "&#39;x&#39; is none"),
    ("/audit?event=x&id=y", "&#39;y&#39; is no id"),
    ("/troubleshooting/act?action=burn&all=yes", "it is one of retry, cancel, complete"),
    ("/troubleshooting/act?action=retry", "No command was chosen"),
    ("/troubleshooting/act?action=retry&command_id=7", "&#39;7&#39; is no id"),
    ("/troubleshooting/act?action=retry&all=yes&moved_before=x", "is no time"),
    ("/find?id=7", "is no id"),
]


async def test_what_cannot_be_understood_is_told_at_its_field(reader: Reader) -> None:
    for path, problem in MISTAKES:
        assert problem in await reader.get(path, 422), path


async def test_what_is_not_there_is_a_page_that_says_so(reader: Reader) -> None:
    for kind in ("commands", "processes", "batches", "process-batches"):
        assert NOBODY in await reader.get(f"/{kind}/{NOBODY}", 404)
        assert "is no id" in await reader.get(f"/{kind}/seven", 404)
    assert NOBODY in await reader.get(f"/batches/{NOBODY}/cancel", 404)
    assert NOBODY in await reader.get(f"/find?id={NOBODY}", 404)


async def test_an_id_is_found_whatever_it_is_of(reader: Reader, played: Played) -> None:
    for found, path in (
        (played.commands["once"], "/commands"),
        (played.processes["once"], "/processes"),
        (played.process_batch, "/process-batches"),
        (played.command_batch, "/batches"),
    ):
        answer = await reader.client.get(f"/find?id=%20{found}")
        assert answer.headers["location"] == f"{path}/{found}"
    answer = await reader.client.get(f"/batches/{played.process_batch}")
    assert answer.headers["location"] == f"/process-batches/{played.process_batch}"


async def test_pages_of_a_list_have_each_item_once(reader: Reader, cb_pool: Pool) -> None:
    sent = [uuid4() for _ in range(60)]
    await CommandBus(cb_pool).send_batch([SendRequest("mail", "SendMail", each, {}) for each in sent])
    path, found = "/commands?limit=25&domain=mail", list[str]()
    while path:
        page = await reader.get(path)
        found += re.findall(r'<a class="id short" href="/commands/([0-9a-f-]+)"', page)
        following = re.search(r'href="([^"]+)" rel="next"', page)
        path = html.unescape(following[1]) if following else ""
    assert sorted(found) == sorted(map(str, sent))


async def test_refreshing_a_batch_is_switched_in_its_address(reader: Reader, played: Played) -> None:
    path = f"/process-batches/{played.process_batch}"
    page = await reader.get(path)
    assert 'aria-checked="true"' in page
    assert "hx-trigger" in page
    page = await reader.get(f"{path}?refresh=off&status=COMPLETED")
    assert 'aria-checked="false"' in page
    assert "hx-trigger" not in page
    assert f"{path}?status=COMPLETED" in links(page)


async def test_the_audit_trail_is_searched(reader: Reader, played: Played) -> None:
    process_id = played.processes["refused"]
    page = await reader.get(f"/audit?id={process_id}")
    assert [step for step in ("Reserve", "Pay", "Return") if f"> {step}" in page or f"{step} <span" in page]
    assert page.count("business rule failed</span>") == 1
    page = await reader.get("/audit?event=MOVED_TO_TSQ&domain=mail")
    assert page.count("moved to tsq</span>") == 2
    assert "received</span>" not in page
    assert "Nothing matches" in await reader.get(f"/audit?id={uuid4()}")


async def test_an_application_adds_panels_and_a_broken_one_does_no_harm(
    console_app: App, cb_pool: Pool, played: Played, tmp_path: Any
) -> None:
    (tmp_path / "mood.html").write_text("<p>mood of {{ command.command_type }}: {{ panel.context.mood }}</p>")
    site = Site(ConsoleSettings())
    site.add_templates(tmp_path)

    @site.panels.on_command
    async def mood(command: Any, events: Any) -> Panel | None:
        return Panel("Mood", "mood.html", {"mood": "<grim>"}) if command.error_code else None

    @site.panels.on_process
    async def broken(process: Any, trail: Any) -> Panel | None:
        raise KeyError(len(trail))

    @site.panels.on_dashboard
    async def weather() -> Panel | None:
        return Panel("Weather", "weather.html", {"sky": "<grey>"})

    (tmp_path / "weather.html").write_text("<p>the sky is {{ panel.context.sky }}</p>")
    async with client_of(create_console(console_app, cb_pool, site=site)) as client:
        reader = Reader(client)
        assert "the sky is &lt;grey&gt;" in await reader.get("/")
        assert "mood of SendMail: &lt;grim&gt;" in await reader.get(f"/commands/{played.commands['permanent']}")
        assert "Mood" not in await reader.get(f"/commands/{played.commands['once']}")
        page = await reader.get(f"/processes/{played.processes['once']}")
        assert "This could not be shown: KeyError" in page
        assert "Every step succeeded." in page


async def test_an_empty_bus_has_pages_that_say_so(reader: Reader) -> None:
    for path, text in (
        ("/process-batches", "There is no batch"),
        ("/batches", "There is no batch"),
        ("/processes", "No process was ever started"),
        ("/commands", "No command was ever sent"),
        ("/troubleshooting", "Nothing is parked"),
        ("/audit", "Nothing was ever sent"),
    ):
        assert text in await reader.get(path)
