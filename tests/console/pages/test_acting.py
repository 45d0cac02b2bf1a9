"""What an operator does on the pages: retry, cancel and complete, one or all that match; their routes."""

import re
from typing import Any
from uuid import uuid4

import pytest

from commandbus import App, CommandStatus, TroubleshootingQueue
from commandbus.process import ProcessRepository, ProcessStatus
from commandbus.web import ConsoleSettings, create_console
from tests.console.conftest import client_of
from tests.console.pages.reading import Reader, line, links, note
from tests.console.shop import Played, Pool, fill, work

pytestmark = pytest.mark.asyncio


async def test_retrying_one_command_from_its_page(reader: Reader, played: Played, cb_bus: Any) -> None:
    command_id = played.commands["permanent"]
    question = await reader.get(f"/troubleshooting/act?action=retry&command_id={command_id}")
    assert "Retry 1 parked command?" in question
    assert line(question) == f"commandbus tsq retry {command_id}"
    page = await reader.done(question, operator="ann", reason="a new card")
    assert note(page) == "Retried 1 parked command."
    event = (await cb_bus.get_audit_trail(command_id))[-1]
    assert (event.event_type, event.details) == ("OPERATOR_RETRY", {"operator": "ann", "reason": "a new card"})
    assert "<strong>ann</strong>: a new card" in page
    again = await reader.done(question, operator="bob")  # who looked at the same page
    assert f"{command_id} is PENDING" in note(again)
    assert note(again).startswith("Retried 0 parked commands. Not in the troubleshooting queue (any more)")


async def test_completing_takes_a_json_object(reader: Reader, played: Played, cb_bus: Any) -> None:
    command_id = played.commands["transient"]
    question = await reader.get(f"/troubleshooting/act?action=complete&command_id={command_id}")
    for wrong, why in (("{", "The result is no JSON"), ("[1]", "must be a JSON object"), ('{"a": NaN}', "NaN")):
        answer = await reader.send(question, result=wrong, reason="by hand")
        assert answer.status_code == 422
        assert why in answer.text
        assert "by hand" in answer.text
    await reader.done(question, result='{"receipt": "R-7"}')
    command = await cb_bus.get_command(command_id)
    assert (command.status, command.result) == (CommandStatus.COMPLETED, {"receipt": "R-7"})


async def test_all_that_match_are_those_that_were_looked_at(
    reader: Reader, played: Played, console_app: App, cb_pool: Pool
) -> None:
    question = await reader.get("/troubleshooting/act?action=cancel&all=yes&domain=mail")
    assert "Cancel 2 parked commands?" in question
    assert line(question).startswith("commandbus tsq cancel --domain mail --moved-before ")
    later = await fill(console_app, cb_pool, ["permanent"])
    page = await reader.done(question, reason="not needed")
    assert note(page) == "Cancelled 2 parked commands."
    left = await TroubleshootingQueue(cb_pool).list_troubleshooting("mail")
    assert [item.command_id for item in left.items] == list(later.commands.values())
    gone = await reader.get("/troubleshooting/act?action=cancel&all=yes&domain=nobody", 422)
    assert "Nothing is parked that this finds" in gone


async def test_a_bulk_action_has_a_limit(console_app: App, cb_pool: Pool, played: Played) -> None:
    async with client_of(create_console(console_app, cb_pool, ConsoleSettings(max_bulk=3))) as client:
        reader = Reader(client)
        question = await reader.get("/troubleshooting/act?action=retry&all=yes", 422)
        assert "At most 3 at once" in question
        assert line(question).startswith("commandbus tsq retry --moved-before ")
        named = "&".join(f"command_id={uuid4()}" for _ in range(251))
        assert "at most 250" in await reader.get(f"/troubleshooting/act?action=retry&{named}", 422)
        few = "&".join(f"command_id={uuid4()}" for _ in range(4))
        assert "At most 3 at once" in await reader.get(f"/troubleshooting/act?action=retry&{few}", 422)
        batch = f"/batches/{played.process_batch}/cancel"
        form = await reader.get(batch)
    async with client_of(create_console(console_app, cb_pool, ConsoleSettings(max_bulk=1))) as client:
        reader = Reader(client)
        assert "2 members have not ended; at most 1 at once" in await reader.get(batch, 422)
        own = await reader.get(f"/processes/{played.processes['transient']}/cancel")  # for a token of this session
        token = re.findall(r'name="csrf_token" value="[^"]*"', own)[0]
        refused = await reader.send(re.sub(r'name="csrf_token" value="[^"]*"', token, form))
        assert (refused.status_code, "at most 1 at once" in refused.text) == (422, True)
        page = await reader.get(f"/process-batches/{played.process_batch}")
        assert 'data-figure="parked">2<' in page


async def test_a_process_is_cancelled_from_its_page(
    reader: Reader, console_app: App, cb_pool: Pool, played: Played
) -> None:
    process_id = played.processes["permanent"]
    page = await reader.done(await reader.get(f"/processes/{process_id}/cancel"), reason="ordered twice")
    assert note(page) == "Cancelled."
    await work(console_app, cb_pool)
    process = await ProcessRepository(cb_pool).get(process_id)
    assert process is not None
    assert process.status is ProcessStatus.COMPENSATED
    assert "it has ended already" in await reader.get(f"/processes/{process_id}/cancel", 422)
    answer = await reader.send(await reader.get(f"/processes/{played.processes['transient']}/cancel"))
    assert answer.status_code == 303


async def test_a_batch_is_cancelled_from_its_page(reader: Reader, played: Played, cb_bus: Any) -> None:
    page = await reader.get(f"/process-batches/{played.process_batch}")
    assert 'data-figure="parked">2<' in page
    assert f"/batches/{played.process_batch}/cancel" in links(page)
    page = await reader.done(await reader.get(f"/batches/{played.process_batch}/cancel"), operator="ann")
    assert note(page).startswith("Cancelled 2; 0 in flight")
    question = await reader.get(f"/batches/{played.command_batch}/cancel")
    assert "a parked one stays" in question
    assert (await reader.send(question)).status_code == 303


async def test_nothing_is_changed_without_the_forms_token(reader: Reader, played: Played, cb_bus: Any) -> None:
    command_id = played.commands["permanent"]
    for path in (
        "/troubleshooting/act",
        f"/processes/{played.processes['permanent']}/cancel",
        f"/batches/{played.process_batch}/cancel",
    ):
        answer = await reader.client.post(path, data={"action": "retry", "command_id": str(command_id)})
        assert answer.status_code == 403, path
    assert (await cb_bus.get_command(command_id)).status is CommandStatus.IN_TROUBLESHOOTING_QUEUE
