"""What users do with batches: preview, start, look, cancel. Each takes the user, and refuses what is another's."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from commandbus import CommandBus, InvalidOperationError
from commandbus.process import ProcessRepository

from . import sql
from .cost import Quote, RateBook, quote
from .errors import Refused
from .metrics import Metrics
from .notices import raise_alerts
from .process import DOMAIN, LeadReportProcess
from .rows import Connection, Pool, Row, array, fetch, first, single
from .settings import Settings

OPEN = ("PENDING", "PROCESSING")


@dataclass(frozen=True)
class Preview:
    """A quote, and how it stands to the day's budget."""

    quote: Quote
    template_version: str
    spent: Decimal
    budget: Decimal
    seconds: float
    is_on: bool

    @property
    def exceeds_budget(self) -> bool:
        """Whether the day's budget would be exceeded."""
        return self.spent + self.quote.total > self.budget


class Batches:
    """The application's verbs over its own tables and the bus."""

    def __init__(self, pool: Pool, settings: Settings, metrics: Metrics) -> None:
        self._pool = pool
        self._settings = settings
        self._metrics = metrics
        self._bus = CommandBus(pool)
        self._manager = LeadReportProcess(pool)
        self._processes = ProcessRepository(pool)
        self.rates = RateBook(settings.rates, settings.rates_ttl)

    async def preview(self, owner: str, lead_ids: Sequence[int], template_version: str) -> Preview:
        """Quote a batch, and keep the quote. Raises Refused, RatesError."""
        async with single(self._pool) as conn:
            found = await self._quote(conn, lead_ids, template_version)
            await self._keep(conn, owner, found, None)
        return found

    async def start(self, owner: str, lead_ids: Sequence[int], template_version: str, accepted_cost: Decimal) -> UUID:
        """Start a batch at the cost that was accepted. Raises Refused, RatesError."""
        if not self._settings.enabled:
            raise _switched_off()
        async with self._pool.connection() as conn:
            await fetch(conn, sql.LOCK_BUDGET)
            found = await self._quote(conn, lead_ids, template_version)
            self._admit(found, accepted_cost)
            batch_id = await self._bus.create_process_batch(
                DOMAIN, len(lead_ids), name=f"{len(lead_ids)} leads of {owner}", conn=conn
            )
            units = json.dumps({name: str(cost) for name, cost in found.quote.unit_costs.items()})
            await fetch(
                conn,
                sql.ADD_BATCH,
                batch_id=batch_id,
                owner=owner,
                template_version=template_version,
                lead_count=len(lead_ids),
                quoted_cost=found.quote.total,
                unit_costs=units,
            )
            await fetch(conn, sql.ADD_BATCH_LEADS, batch_id=batch_id, lead_ids=array(lead_ids))
            await self._keep(conn, owner, found, batch_id)
            spent = found.spent + found.quote.total
            await raise_alerts(conn, self._bus, spent, self._settings.daily_budget, self._metrics)
        self._metrics.started.inc()
        await self.launch(batch_id)
        return batch_id

    async def launch(self, batch_id: UUID) -> bool:
        """Start the leads of a PENDING batch, which may have been left by a crash; False when another does just that.

        Whether they were started already is what the bus says: its one transaction starts all or none.
        """
        async with self._pool.connection() as conn:
            pending = await first(conn, sql.LOCK_PENDING, batch_id=batch_id)
            if pending is None:
                return False
            if not await self._processes.of_batch(batch_id, limit=1, conn=conn):
                leads = await fetch(conn, sql.BATCH_LEAD_IDS, batch_id=batch_id)
                await self._manager.start_many(_states(batch_id, leads, pending), batch_id)
            await fetch(conn, sql.SET_PROCESSING, batch_id=batch_id)
        return True

    async def get(self, owner: str, batch_id: UUID) -> Row:
        """Return a batch of this user. Raises Refused, the same for another's as for none."""
        async with single(self._pool) as conn:
            return owned(await first(conn, sql.BATCH, batch_id=batch_id), owner, batch_id)

    async def cancel(self, owner: str, batch_id: UUID) -> None:
        """Cancel what has not run. Raises Refused for a batch that has ended."""
        await self.get(owner, batch_id)
        async with self._pool.connection() as conn:
            cursor = await conn.execute(sql.ASK_ENDING, {"batch_id": batch_id, "ending": "cancelled"})
        if cursor.rowcount == 0 and (await self.get(owner, batch_id))["status"] not in OPEN:
            raise Refused(409, "ENDED", "the batch has ended; there is nothing left to cancel")
        await self.stop_leads(batch_id, owner, "cancelled")

    async def stop_leads(self, batch_id: UUID, operator: str, reason: str) -> None:
        """Cancel on the bus what has not run; may be repeated."""
        try:
            await self._bus.cancel_batch(DOMAIN, batch_id, operator=operator, reason=reason, processes=[self._manager])
        except InvalidOperationError:
            return  # all of it has ended meanwhile

    async def _quote(self, conn: Connection, lead_ids: Sequence[int], template_version: str) -> Preview:
        rates = self.rates.rates(template_version)
        rows = await fetch(conn, sql.PREVIEW, lead_ids=array(lead_ids))
        counts: dict[str | None, int] = {row["provider"]: row["leads"] for row in rows}
        if (missing := len(lead_ids) - sum(counts.values())) > 0:
            raise Refused(422, "NO_SUCH_LEAD", f"{missing} of the leads do not exist (any more)")
        estimate = quote(rates, counts)
        per_second = self._settings.parallel / max(self._settings.provider_latency + 0.05, 0.001)
        return Preview(
            quote=estimate,
            template_version=template_version,
            spent=Decimal(rows[0]["spent"]),
            budget=self._settings.daily_budget,
            seconds=round(1 + estimate.count / min(per_second, 100), 1),
            is_on=self._settings.enabled and rows[0]["is_on"] is not False,
        )

    def _admit(self, found: Preview, accepted_cost: Decimal) -> None:
        if not found.is_on:
            raise _switched_off()
        if accepted_cost != found.quote.total:
            message = f"it costs {found.quote.total} now, not {accepted_cost}; look at a new preview"
            raise Refused(409, "COST_CHANGED", message)
        if found.exceeds_budget:
            message = f"{found.spent} of today's {found.budget} are spent; {found.quote.total} more are too much"
            raise Refused(409, "OVER_BUDGET", message)

    @staticmethod
    async def _keep(conn: Connection, owner: str, found: Preview, batch_id: UUID | None) -> None:
        await fetch(
            conn,
            sql.ADD_QUOTE,
            owner=owner,
            template_version=found.template_version,
            lead_count=found.quote.count,
            total=found.quote.total,
            batch_id=batch_id,
        )


def owned(found: Row | None, owner: str, batch_id: UUID) -> Row:
    """Return a batch that was looked up. Raises Refused, the same for another's as for none."""
    if found is None or found["owner"] != owner:
        raise Refused(404, "NO_SUCH_BATCH", f"there is no batch {batch_id} of yours")
    return found


def _switched_off() -> Refused:
    return Refused(503, "SWITCHED_OFF", "starting batches is switched off; running ones go on", retry_after=60)


def _states(batch_id: UUID, leads: Sequence[Row], batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for lead in leads:
        yield {
            "batch_id": str(batch_id),
            "lead_id": lead["lead_id"],
            "template_version": batch["template_version"],
            "unit_costs": batch["unit_costs"],
        }
