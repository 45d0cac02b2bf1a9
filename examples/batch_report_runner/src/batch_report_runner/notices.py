"""What people are told by e-mail: a batch has ended, the budget is nearly used up. Sent as commands of the bus."""

import logging
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from commandbus import CommandBus

from . import sql
from .metrics import Metrics
from .process import MAIL
from .rows import Connection, Row, fetch

LEVELS = (80, 100)  # percent of the daily budget
ATTEMPTS = 10
_NAMES = UUID("6f0c1f5a-94c6-4a3f-9d2e-6a1b2f0f8f11")
_log = logging.getLogger(__name__)


async def raise_alerts(conn: Connection, bus: CommandBus, spent: Decimal, budget: Decimal, metrics: Metrics) -> None:
    """Once a day for each level that is crossed: a row, a log record, an e-mail, all with the caller's transaction."""
    levels = [level for level in LEVELS if spent * 100 >= budget * level]
    if not levels:
        return
    for alert in await fetch(conn, sql.ADD_ALERTS, levels=levels, spent=spent, budget=budget):
        text = f"{spent} of the daily budget of {budget} are used: more than {alert['level']} %."
        _log.warning("budget alert: %s", text)
        metrics.alerts.labels(alert["level"]).inc()
        await _send(conn, bus, f"alert {alert['day']} {alert['level']}", f"Budget at {alert['level']} %", text)


async def tell_end(conn: Connection, bus: CommandBus, batch: Row, status: str, counts: Row, url: str) -> None:
    """Send the summary of a batch, once, with the transaction that ends it."""
    text = "\n".join(
        [
            f"Batch {batch['batch_id']} of {batch['owner']} is {status}.",
            "",
            f"Leads:     {batch['lead_count']}",
            f"Succeeded: {counts['succeeded']}",
            f"Failed:    {counts['failed']}",
            f"Cancelled: {counts['cancelled']}",
            f"Cost:      {counts['actual_cost']:.2f} (quoted {batch['quoted_cost']})",
            "",
            f"Reports and errors: {url}/batches/{batch['batch_id']}",
        ]
    )
    await _send(conn, bus, f"end {batch['batch_id']}", f"Reports {status}: {batch['lead_count']} leads", text)


async def _send(conn: Connection, bus: CommandBus, name: str, subject: str, text: str) -> None:
    data: dict[str, Any] = {"subject": subject, "text": text}
    await bus.send(
        domain=MAIL,
        command_type="SendMail",
        command_id=uuid5(_NAMES, name),
        data=data,
        max_attempts=ATTEMPTS,
        conn=conn,
    )
