"""What the steps of an order do in our own tables. Each effect commits together with the command's completion.

So a handler that is run again, after a crash or a lost lease, has its effect once: the first run's writes are there
only if its outcome is, too.
"""

from commandbus import BusinessRuleError, Command, HandlerContext, handler

from . import sql
from .process import DOMAIN, Step

SERVED = ("AT", "CH", "DE")


class OrderHandlers:
    """A refusal is raised inside the transaction, which takes back what was written before it."""

    @handler(domain=DOMAIN, command_type=Step.RESERVE_STOCK)
    async def reserve_stock(self, command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            taken = await conn.execute(sql.TAKE_FROM_STOCK, command.data)
            if taken.rowcount == 0:
                raise BusinessRuleError(
                    "OUT_OF_STOCK", f"there are no {command.data['quantity']} {command.data['sku']}"
                )
            await conn.execute(sql.INSERT_RESERVATION, command.data)
            await context.complete()

    @handler(domain=DOMAIN, command_type=Step.CHARGE_CARD)
    async def charge_card(self, command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            charged = await conn.execute(sql.CHARGE_CARD, command.data)
            if charged.rowcount == 0:
                raise BusinessRuleError("CARD_DECLINED", f"{command.data['card']} is not good for so much")
            await conn.execute(sql.INSERT_PAYMENT, command.data)
            await context.complete()

    @handler(domain=DOMAIN, command_type=Step.SHIP_PARCEL)
    async def ship_parcel(self, command: Command, context: HandlerContext) -> None:
        if command.data["country"] not in SERVED:
            raise BusinessRuleError("NOT_SERVED", f"nobody delivers to {command.data['country']}")
        async with context.transaction() as conn:
            cursor = await conn.execute(sql.INSERT_PARCEL, command.data)
            parcel = await cursor.fetchone()
            if parcel is None:
                raise BusinessRuleError("RESERVATION_EXPIRED", "the pieces were kept for two days")
            await context.complete({"parcel": f"P{parcel[0]:06}"})

    @handler(domain=DOMAIN, command_type=Step.REFUND_CARD)
    async def refund_card(self, command: Command, context: HandlerContext) -> None:
        """Give back what was paid; nothing when nothing was."""
        async with context.transaction() as conn:
            await conn.execute(sql.REFUND_CARD, command.data)
            await context.complete()

    @handler(domain=DOMAIN, command_type=Step.RELEASE_STOCK)
    async def release_stock(self, command: Command, context: HandlerContext) -> None:
        """Put back what is still held; nothing when nothing is."""
        async with context.transaction() as conn:
            await conn.execute(sql.RELEASE_RESERVATION, command.data)
            await context.complete()
