"""E-mail, to a real SMTP server."""

import dataclasses
from email import message_from_bytes

import pytest
from aiosmtpd.controller import Controller
from batch_report_runner.app import build_app
from batch_report_runner.settings import Settings


class Mailbox:
    """Takes e-mail; the first `failures` are refused for now."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.refused = 0
        self.mails = []

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802  aiosmtpd calls it so
        if self.refused < self.failures:
            self.refused += 1
            return "451 4.3.0 come again later"
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"


@pytest.fixture
def mailbox():
    return Mailbox(failures=2)


@pytest.fixture
def smtp(mailbox):
    controller = Controller(mailbox, hostname="127.0.0.1", port=0)
    controller.start()
    yield controller.server.sockets[0].getsockname()[1]
    controller.stop()


@pytest.fixture
def cb_app(smtp):
    return build_app(dataclasses.replace(Settings.from_env(), smtp_port=smtp, mail_to="ops@example.org"))


async def test_the_summary_of_a_batch_arrives_once_though_the_server_refuses_it_twice(
    site, cb_worker_pool, cb_bus, mailbox
):
    async with cb_worker_pool(workers=1):
        begun = await site.start(5)
        ended = await site.until(begun["batch_id"])
        assert ended["status"] == "COMPLETED"  # whatever becomes of the e-mail
        await cb_bus.assert_nothing_left(within=60)
    assert mailbox.refused == 2
    (mail,) = mailbox.mails
    assert (mail["To"], mail["Subject"]) == ("ops@example.org", "Reports COMPLETED: 5 leads")
    text = mail.get_payload()
    assert f"/batches/{begun['batch_id']}" in text
    assert "Succeeded: 5" in text
    assert f"quoted {ended['quoted_cost']}" in text


async def test_a_server_that_never_answers_harms_no_batch(site, cb_worker_pool, cb_pool, smtp, mailbox):
    mailbox.failures = 1000
    async with cb_worker_pool(workers=1):
        begun = await site.start(2)
        assert (await site.until(begun["batch_id"]))["status"] == "COMPLETED"
        again = await site.start(2)
        assert (await site.until(again["batch_id"]))["status"] == "COMPLETED"
    assert mailbox.mails == []
