"""E-mail, to a real SMTP server."""

import asyncio
import dataclasses
import socket
from email import message_from_bytes
from email.policy import default

import pytest
import pytest_asyncio
from aiosmtpd.smtp import SMTP
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
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"


@pytest.fixture
def mailbox():
    return Mailbox(failures=2)


@pytest.fixture
def smtp():
    """A port for the server; it answers once `mailserver` runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest_asyncio.fixture
async def mailserver(smtp, mailbox):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailbox, hostname="localhost"), sock=smtp)
    yield server
    server.close()


@pytest.fixture
def cb_app(smtp):
    return build_app(
        dataclasses.replace(Settings.from_env(), smtp_port=smtp.getsockname()[1], mail_to="ops@example.org")
    )


async def test_the_summary_of_a_batch_arrives_once_though_the_server_refuses_it_twice(
    site, cb_worker_pool, cb_bus, mailbox, mailserver
):
    async with cb_worker_pool(workers=1):
        begun = await site.start(5)
        ended = await site.until(begun["batch_id"])
        assert ended["status"] == "COMPLETED"  # whatever becomes of the e-mail
        await cb_bus.assert_nothing_left(within=60)
    assert mailbox.refused == 2
    (mail,) = mailbox.mails
    assert (mail["To"], mail["Subject"]) == ("ops@example.org", "Reports COMPLETED: 5 leads")
    text = mail.get_content()
    assert f"/batches/{begun['batch_id']}" in text
    assert "Succeeded: 5" in text
    assert f"quoted {ended['quoted_cost']}" in text


@pytest.mark.slow
async def test_a_server_that_never_answers_harms_no_batch(site, cb_worker_pool, mailbox, mailserver):
    mailbox.failures = 1000
    async with cb_worker_pool(workers=1):
        begun = await site.start(2)
        assert (await site.until(begun["batch_id"]))["status"] == "COMPLETED"
        again = await site.start(2)
        assert (await site.until(again["batch_id"]))["status"] == "COMPLETED"
    assert mailbox.mails == []
