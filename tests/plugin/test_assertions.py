"""Assertions on batches and on the bus: each that fails shows the nearest miss, each misuse what would be valid."""

import asyncio
import re
from uuid import uuid4

import pytest

from .conftest import Suite
from .shop import OrderProcess, Step

MIXED = {"fail_business_rule_pct": 100, "error_code": "NO_FUNDS", "error_message": "the card is empty"}


async def send_mail(bus, **data):
    return await bus.send(domain="mail", command_type="SendMail", command_id=uuid4(), data=data)


async def test_what_holds_passes(cb_process_batch, cb_command_batch, cb_bus):
    batch = await cb_process_batch(OrderProcess, count=3, initial_data=lambda i: {"order": i})
    await batch.complete()
    await batch.assert_completed()
    await batch.assert_outcomes({"COMPLETED": 3, "CANCELED": 0})
    first = (await batch.processes())[0].process_id
    await batch.assert_path(first, [Step.RESERVE, "TakePayment", "ship"])
    await batch.assert_compensated(first, [])
    (sent,) = await batch.assert_sent("ShipParcel", where={"order": 2})
    assert sent.data == {"order": 2, "slow": 0.0, "until": ""}
    await batch.assert_nothing_left()
    mails = await cb_command_batch("mail", "SendMail", count=2, data={"to": "me"})
    await mails.complete()
    await mails.assert_completed()
    assert len(await cb_bus.assert_sent("SendMail", where={"to": "me"}, domain="mail")) == 2
    await cb_bus.assert_nothing_left()


@pytest.mark.chaos(payment=MIXED)
def test_a_plain_test_asserts_the_same(cb_process_batch, cb_bus):
    batch = cb_process_batch(OrderProcess, count=2, initial_data={"order": 4})
    batch.complete()
    batch.assert_outcomes({"CANCELED": 2})
    process = batch.processes()[0]
    batch.assert_path(process.process_id, ["reserve", "payment"])
    batch.assert_compensated(process.process_id, ["reserve"])
    with cb_bus.watching() as seen:
        cb_bus.send(domain="mail", command_type="SendMail", command_id=uuid4(), data={"to": "me"})
    seen.assert_sent("SendMail")
    with pytest.raises(AssertionError, match=r"no ShipParcel was sent\n  what was sent:\n    1 x SendMail of"):
        seen.assert_sent("ShipParcel")
    with pytest.raises(AssertionError, match=r"COMPLETED: 0, expected 2 \(2 fewer\)\n  CANCELED: 2, expected 0"):
        batch.assert_completed()


@pytest.mark.chaos(payment=MIXED)
async def test_other_outcomes_show_which_processes_differ_and_why(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=5)
    await batch.complete()
    with pytest.raises(AssertionError) as raised:
        await batch.assert_outcomes({"COMPLETED": 2, "CANCELED": 2})
    ids = [process.process_id for process in await batch.processes()]
    lines = str(raised.value).splitlines()
    assert lines[:4] == [
        f"assert_outcomes: the batch {batch.batch_id} of domain 'orders' has other outcomes:",
        "  COMPLETED: 0, expected 2 (2 fewer)",
        "  CANCELED: 5, expected 2 (3 more)",
        "  CANCELED:",
    ]
    for number in range(3):
        head, path, event = lines[4 + 3 * number : 7 + 3 * number]
        assert head == f"    process {number} ({ids[number]}, CANCELED, NO_FUNDS: the card is empty)"
        assert path == "      path: ReserveStock > TakePayment (FAILED) > ReturnStock (undoes ReserveStock)"
        assert re.fullmatch(
            r" +\+\d+\.\d\d s  TakePayment  BUSINESS_RULE_FAILED  attempt 1  worker \d+  "
            r"injected NO_FUNDS: the card is empty",
            event,
        )
    assert lines[13:] == ["    (and 2 more)", "the expected counts add up to 4, the batch has 5 processes"]


async def test_commands_that_differ_are_shown_with_their_data(cb_command_batch):
    batch = await cb_command_batch("mail", "SendMail", count=4, data=lambda i: {"to": "me" if i else "nobody"})
    await batch.wait()
    with pytest.raises(AssertionError) as raised:
        await batch.assert_completed()
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("assert_completed: the batch ")
    assert lines[1:4] == [
        "  COMPLETED: 3, expected 4 (1 fewer)",
        "  IN_TROUBLESHOOTING_QUEUE: 1, expected 0 (1 more)",
        "  IN_TROUBLESHOOTING_QUEUE:",
    ]
    assert re.fullmatch(r"    SendMail \S{36} with \{'to': 'nobody'\}, NO_SUCH_ADDRESS: no mail for nobody", lines[4])
    assert re.fullmatch(r" +\+\d+\.\d\d s  MOVED_TO_TSQ  attempt 1", lines[5])
    with pytest.raises(AssertionError, match=r"left of the batch .*\n  1 x SendMail IN_TROUB.*parked: NO_SUCH_ADDRESS"):
        await batch.assert_nothing_left()


async def test_what_has_not_ended_is_told(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=2, workers=0)
    (first, _) = await batch.processes()
    with pytest.raises(AssertionError, match=r"2 of 2 have not ended yet: wait\(\) for the batch first"):
        await batch.assert_completed()
    with pytest.raises(AssertionError, match=r"it has not ended yet: wait\(\) for the batch first"):
        await batch.assert_path(first.process_id, ["reserve", "payment"])


@pytest.mark.chaos(payment=MIXED)
async def test_another_path_shows_where_it_parts_and_the_timeline(cb_process_batch):
    batch = await cb_process_batch(OrderProcess)
    await batch.complete()
    process_id = (await batch.processes())[0].process_id
    with pytest.raises(AssertionError) as raised:
        await batch.assert_path(process_id, ["reserve", "payment", "ship"])
    lines = str(raised.value).splitlines()
    assert lines[:5] == [
        f"assert_path: process 0 ({process_id}, CANCELED, NO_FUNDS: the card is empty) went another path:",
        "  expected: ReserveStock > TakePayment > ShipParcel",
        "  actual:   ReserveStock > TakePayment",
        "  they differ at step 3: expected ShipParcel, actual nothing more",
        "  in full:  ReserveStock > TakePayment (FAILED) > ReturnStock (undoes ReserveStock)",
    ]
    assert "+0.00 s  ReserveStock  SENT" in lines[5]
    assert any("ReturnStock  undo  COMPLETED" in line for line in lines[5:])
    with pytest.raises(AssertionError, match="at step 1: expected TakePayment, actual ReserveStock"):
        await batch.assert_path(process_id, ["payment", "reserve"])


@pytest.mark.chaos(payment=MIXED)
async def test_other_compensations_show_what_was_undone(cb_process_batch):
    batch = await cb_process_batch(OrderProcess)
    await batch.complete()
    process_id = (await batch.processes())[0].process_id
    with pytest.raises(AssertionError) as raised:
        await batch.assert_compensated(process_id, ["payment", "reserve"])
    assert "undid other steps:\n  expected: TakePayment > ReserveStock\n  actual:   ReserveStock\n" in str(raised.value)
    with pytest.raises(AssertionError, match="  ReturnStock is what undoes ReserveStock: name the step that is undone"):
        await batch.assert_compensated(process_id, ["ReturnStock"])


async def test_the_closest_commands_are_shown_with_what_differs(cb_bus):
    for number in range(4):
        await send_mail(cb_bus, to="bob", letter={"pages": number, "size": "A4"})
    ann = await send_mail(cb_bus, to="ann", letter={"pages": 7, "size": "A4"})
    await cb_bus.assert_sent("SendMail", where={"letter": {"pages": 3}})
    with pytest.raises(AssertionError) as raised:
        await cb_bus.assert_sent("SendMail", where={"to": "ann", "letter": {"pages": 8}, "urgent": True})
    lines = str(raised.value).splitlines()
    assert lines[0] == ("assert_sent: no SendMail with {'to': 'ann', 'letter': {'pages': 8}, 'urgent': True} was sent")
    assert lines[2] == f"    SendMail {ann}: letter.pages is 7, expected 8; urgent is missing, expected True"
    assert "to is 'bob', expected 'ann'; letter.pages is 0, expected 8" in lines[3]
    assert lines[5:] == ["    (and 2 more)", "  none of them has a field 'urgent': they have letter, to"]
    with pytest.raises(
        AssertionError, match=r"no SendMial was sent\n  did you mean SendMail\?\n.*\n    5 x SendMail of"
    ):
        await cb_bus.assert_sent("SendMial")


async def test_only_what_was_sent_since_the_block_began_counts(cb_bus):
    await send_mail(cb_bus, to="ann")
    async with cb_bus.watching() as seen:
        with pytest.raises(AssertionError, match="nothing was sent since this began"):
            await seen.assert_sent("SendMail")
        await send_mail(cb_bus, to="bob")
    assert [command.data for command in await seen.assert_sent("SendMail")] == [{"to": "bob"}]
    with pytest.raises(AssertionError, match="to is 'bob', expected 'ann'"):
        await seen.assert_sent("SendMail", where={"to": "ann"})
    assert len(await cb_bus.assert_sent("SendMail")) == 2


async def test_within_waits_for_it(cb_process_batch, cb_bus, cb_worker_pool):
    batch = await cb_process_batch(OrderProcess, workers=0)
    with pytest.raises(AssertionError, match=r"no ShipParcel was sent by the batch \S+, in 0.05 s"):
        await batch.assert_sent("ShipParcel", within=0.05)
    async with cb_worker_pool(workers=1):
        await batch.assert_sent("ShipParcel", within=30)
        await cb_bus.assert_nothing_left(within=30)


async def test_what_is_left_is_shown(cb_bus, cb_process_batch):
    await cb_process_batch(OrderProcess, count=2, workers=0)
    await send_mail(cb_bus, to="ann")
    with pytest.raises(AssertionError) as raised:
        await cb_bus.assert_nothing_left()
    left = re.sub(r"such as \S+\)", "such as …)", str(raised.value)).splitlines()
    assert left == [
        "assert_nothing_left: there is something left on the bus:",
        "  2 x Order WAITING_FOR_REPLY in step ReserveStock: queued, no worker works for domain 'orders' (such as …)",
        "  1 x SendMail PENDING: queued, no worker works for domain 'mail' (such as …)",
    ]


async def test_a_reply_that_nobody_read_is_left(cb_bus, cb_worker_pool):
    mail = {"command_type": "SendMail", "command_id": uuid4(), "data": {"to": "me"}}
    await cb_bus.send(domain="mail", **mail, reply_to="answers")
    async with cb_worker_pool(workers=1), asyncio.timeout(30):
        status = "PENDING"
        while status != "COMPLETED":
            await asyncio.sleep(0.01)
            status = (await cb_bus.get_command(mail["command_id"])).status
    with pytest.raises(
        AssertionError, match=r"bus:\n  1 x reply to 'answers': nobody acknowledged it \(such as that of"
    ):
        await cb_bus.assert_nothing_left()


async def test_misuse_says_what_would_be_valid(cb_process_batch, cb_command_batch, cb_bus):
    batch = await cb_process_batch(OrderProcess, workers=0)
    other = await cb_process_batch(OrderProcess, workers=0)
    process_id = (await batch.processes())[0].process_id
    with pytest.raises(
        pytest.UsageError, match=r"no status is called 'DONE'; valid are PENDING, .*COMPENSATED, FAILED"
    ):
        await batch.assert_outcomes({"DONE": 1})
    with pytest.raises(pytest.UsageError, match="COMPLETED=-1 must be a number of members, 0 or more"):
        await batch.assert_outcomes({"COMPLETED": -1})
    mails = await cb_command_batch("mail", "SendMail", workers=0)
    with pytest.raises(
        pytest.UsageError, match="no status is called 'WAITING_FOR_TSQ'; valid are PENDING, IN_PROGRESS"
    ):
        await mails.assert_outcomes({"WAITING_FOR_TSQ": 1})
    for check in (batch.assert_path, batch.assert_compensated):
        with pytest.raises(pytest.UsageError, match=r"called 'Pack'; .*valid are .*ShipParcel/SHIP.*TakePayment/PAY"):
            await check(process_id, ["Pack"])
        with pytest.raises(pytest.UsageError, match=r"steps are given as a list, such as \['reserve'\]"):
            await check(process_id, "reserve")
        with pytest.raises(pytest.UsageError, match=f"has no process {process_id}: take one of batch.processes"):
            await getattr(other, check.__name__)(process_id, [])
        with pytest.raises(pytest.UsageError, match=r"0 is no process id: give the `.process_id` of"):
            await check(0, [])
    with pytest.raises(pytest.UsageError, match="within=-1 must be a number of seconds, 0 or more"):
        await cb_bus.assert_sent("SendMail", within=-1)
    with pytest.raises(pytest.UsageError, match="within='soon' must be a number of seconds"):
        await batch.assert_nothing_left(within="soon")
    with pytest.raises(pytest.UsageError, match=r'where=7 must be fields and values, such as \{"order_id": 7\}'):
        await cb_bus.assert_sent("SendMail", where=7)
    with pytest.raises(pytest.UsageError, match=r"write `async with cb_bus.watching"):
        await cb_bus.watching().assert_sent("SendMail")


def test_a_failure_points_at_the_test_and_is_clean_of_warnings(suite: Suite):
    suite.write(
        """
        from uuid import uuid4

        pytestmark = pytest.mark.cb_database(scope="module")

        async def test_async(cb_process_batch, cb_bus):
            await cb_bus.send(domain="mail", command_type="SendMail", command_id=uuid4(), data={"to": "me"})
            batch = await cb_process_batch(OrderProcess)
            await batch.complete()
            await batch.assert_outcomes({"CANCELED": 1})

        def test_plain(cb_process_batch):
            batch = cb_process_batch(OrderProcess)
            batch.complete()
            batch.assert_path(batch.processes()[0].process_id, ["ship"])

        async def test_what_an_earlier_test_sent_does_not_count(cb_bus):
            await cb_bus.assert_sent("SendMail")
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            '>*await batch.assert_outcomes({"CANCELED": 1})',
            "E*AssertionError: assert_outcomes: the batch *",
            "E*COMPLETED: 1, expected 0 (1 more)",
            "E*CANCELED: 0, expected 1 (1 fewer)",
            '>*batch.assert_path(batch.processes()[[]0].process_id, [[]"ship"])',
            "E*they differ at step 1: expected ShipParcel, actual ReserveStock",
            "E*AssertionError: assert_sent: no SendMail was sent",
            "E*nothing was sent since this began",
        ]
    )
    result.stdout.no_re_match_line(r".*pytest_commandbus/\w+\.py:\d+")  # no frame of ours
