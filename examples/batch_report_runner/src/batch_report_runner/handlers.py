"""What the steps of a lead do. Their writes commit together with their command's completion, so they are there once."""

import asyncio
from decimal import Decimal
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID, uuid4

import aiosmtplib

from commandbus import BusinessRuleError, Command, HandlerContext, TransientCommandError, handler

from . import pdf, sql
from .process import DOMAIN, MAIL, PRINTING, Step
from .provider import ProviderStub
from .rows import Row, fetch, first
from .settings import Settings


class LeadHandlers:
    """The handlers of both steps."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.data / "reports"
        self._provider = ProviderStub(settings.provider_latency, settings.provider_failure_pct)

    @handler(domain=DOMAIN, command_type=Step.FETCH)
    async def fetch_figures(self, command: Command, context: HandlerContext) -> None:
        """Buy the figures, and write down what they cost."""
        data = command.data
        lead = await self._lead(data["lead_id"], context)
        units = data["unit_costs"]
        figures = await self._provider.fetch(lead, sorted(name for name in units if name) or [""])
        amount = Decimal(units.get(figures.provider, units[""]))
        async with context.transaction() as conn:
            await fetch(
                conn,
                sql.ADD_CHARGE,
                batch_id=data["batch_id"],
                lead_id=data["lead_id"],
                provider=figures.provider,
                amount=amount,
            )
            await context.complete({"provider": figures.provider, "figures": figures.months})

    @handler(domain=PRINTING, command_type=Step.RENDER)
    async def render_report(self, command: Command, context: HandlerContext) -> None:
        """Make the PDF; made again, it takes the place of the first."""
        data = command.data
        lead = await self._lead(data["lead_id"], context)
        path = report_path(self._folder, UUID(data["batch_id"]), data["lead_id"])
        document = await asyncio.to_thread(
            pdf.render, lead, data["figures"], data["provider"], data["template_version"]
        )
        await asyncio.to_thread(_write, path, document)
        where = {"batch_id": data["batch_id"], "lead_id": data["lead_id"]}
        async with context.transaction() as conn:
            await fetch(conn, sql.ADD_DOCUMENT, **where, path=str(path), bytes=len(document))
            await fetch(
                conn,
                sql.END_LEADS,
                batch_id=data["batch_id"],
                lead_ids=[data["lead_id"]],
                statuses=["DONE"],
                attempts=[context.attempt],
                codes=[None],
                messages=[None],
            )
            await context.complete()

    async def _lead(self, lead_id: int, context: HandlerContext) -> Row:
        async with context.pool.connection() as conn:
            lead = await first(conn, sql.LEAD, lead_id=lead_id)
        if lead is None:
            raise BusinessRuleError("NO_SUCH_LEAD", f"lead {lead_id} was deleted meanwhile")
        return lead


class MailHandlers:
    """E-mail is a command too: a server that does not answer is asked again, and no batch knows of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @handler(domain=MAIL, command_type="SendMail")
    async def send_mail(self, command: Command, context: HandlerContext) -> None:
        """Send one e-mail."""
        message = EmailMessage()
        message["From"] = self._settings.mail_from
        message["To"] = self._settings.mail_to
        message["Subject"] = command.data["subject"]
        message["Message-ID"] = f"<{command.command_id}@batch-report-runner>"  # the same, should it be sent again
        message.set_content(command.data["text"])
        try:
            await aiosmtplib.send(
                message,
                hostname=self._settings.smtp_host,
                port=self._settings.smtp_port,
                timeout=self._settings.smtp_timeout,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise TransientCommandError("MAIL_FAILED", f"{type(error).__name__}: {error}") from error


def report_path(folder: Path, batch_id: UUID, lead_id: int) -> Path:
    """Where a report is; made of ids alone, so that no name of a lead can lead anywhere else."""
    return folder / str(batch_id) / f"{int(lead_id)}.pdf"


def _write(path: Path, document: bytes) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{uuid4().hex}.part")
    draft.write_bytes(document)
    draft.replace(path)
