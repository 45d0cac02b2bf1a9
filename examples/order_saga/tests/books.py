"""The shop's books: what the tests put into our tables, and what must be true of these whatever happened."""

from typing import Any

from psycopg_pool import AsyncConnectionPool

ARTICLES = 20
CARDS = 50

# Every shard of a load test opens the shop: the first one counts.
INSERT_STOCK = """
INSERT INTO stock (sku, received, on_hand)
SELECT format('sku-%%s', i), %(pieces)s, %(pieces)s FROM generate_series(0, %(articles)s - 1) AS i
ON CONFLICT DO NOTHING
"""
INSERT_CARDS = """
INSERT INTO card (card, credit_limit, credit)
SELECT format('card-%%s', i), %(credit)s, %(credit)s FROM generate_series(0, %(cards)s - 1) AS i
ON CONFLICT DO NOTHING
"""

# One line for each thing that does not add up.
SELECT_WRONG = """
WITH paid AS (SELECT order_id, sum(cents) AS cents FROM payment GROUP BY order_id),
     held AS (SELECT order_id, sum(quantity) AS pieces FROM reservation WHERE NOT released GROUP BY order_id),
     sent AS (SELECT order_id, count(*) AS parcels, sum(quantity) AS pieces, sum(cents) AS cents
                FROM parcel GROUP BY order_id)
SELECT format('order %s: paid %s cents, shipped for %s', order_id, coalesce(paid.cents, 0), coalesce(sent.cents, 0))
  FROM paid FULL JOIN sent USING (order_id)
 WHERE coalesce(paid.cents, 0) <> coalesce(sent.cents, 0)
UNION ALL
SELECT format('order %s: holds %s pieces, shipped %s', order_id, coalesce(held.pieces, 0), coalesce(sent.pieces, 0))
  FROM held FULL JOIN sent USING (order_id)
 WHERE coalesce(held.pieces, 0) <> coalesce(sent.pieces, 0)
UNION ALL
SELECT format('order %s: shipped %s times', order_id, parcels) FROM sent WHERE parcels > 1
UNION ALL
SELECT format('%s: %s received, %s on hand and %s held', sku, received, on_hand, pieces)
  FROM stock
  CROSS JOIN LATERAL (SELECT coalesce(sum(quantity), 0) AS pieces
                        FROM reservation WHERE reservation.sku = stock.sku AND NOT released) AS all_held
 WHERE received <> on_hand + pieces
UNION ALL
SELECT format('%s: a limit of %s cents, %s left and %s paid', card, credit_limit, credit, cents)
  FROM card
  CROSS JOIN LATERAL (SELECT coalesce(sum(cents), 0) AS cents FROM payment WHERE payment.card = card.card) AS all_paid
 WHERE credit_limit <> credit + cents
ORDER BY 1
"""

COUNT_PARCELS = "SELECT count(*) FROM parcel"


def order(number: int) -> dict[str, Any]:
    """Return an order that nothing speaks against, once the shop is open."""
    return {
        "order_id": number,
        "sku": f"sku-{number % ARTICLES}",
        "quantity": 1 + number % 2,
        "cents": 1_000 + number,
        "card": f"card-{number % CARDS}",
    }


class Books:
    """The shop's own tables in a test's database."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def open(self, *, pieces: int = 1_000_000, credit: int = 1_000_000_000) -> "Books":
        """Put so many pieces of each article on the shelf, and give each card so much credit, in cents."""
        async with self._pool.connection() as conn:
            await conn.execute(INSERT_STOCK, {"articles": ARTICLES, "pieces": pieces})
            await conn.execute(INSERT_CARDS, {"cards": CARDS, "credit": credit})
        return self

    async def wrong(self) -> list[str]:
        """Return what does not add up; an order that is half done does not."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(SELECT_WRONG)
            return [line for (line,) in await cursor.fetchall()]

    async def parcels(self) -> int:
        """Return how many parcels have left."""
        async with self._pool.connection() as conn:
            cursor = await conn.execute(COUNT_PARCELS)
            (count,) = await cursor.fetchone() or (0,)
            return count
