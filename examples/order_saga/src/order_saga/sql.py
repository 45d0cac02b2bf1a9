"""The statements of this application. Their parameters are the fields of an order."""

TAKE_FROM_STOCK = """
UPDATE stock SET on_hand = on_hand - %(quantity)s
 WHERE sku = %(sku)s AND on_hand >= %(quantity)s
"""

# The clock of the bus, so that tests can move it.
INSERT_RESERVATION = """
INSERT INTO reservation (order_id, sku, quantity, expires_at)
VALUES (%(order_id)s, %(sku)s, %(quantity)s, commandbus.now() + interval '2 days')
"""

RELEASE_RESERVATION = """
WITH released AS (
    UPDATE reservation SET released = true
     WHERE order_id = %(order_id)s AND NOT released
    RETURNING sku, quantity
)
UPDATE stock SET on_hand = on_hand + released.quantity
  FROM released
 WHERE stock.sku = released.sku
"""

CHARGE_CARD = """
UPDATE card SET credit = credit - %(cents)s
 WHERE card = %(card)s AND credit >= %(cents)s
"""

INSERT_PAYMENT = """
INSERT INTO payment (order_id, card, cents) VALUES (%(order_id)s, %(card)s, %(cents)s)
"""

REFUND_CARD = """
WITH refund AS (
    INSERT INTO payment (order_id, card, cents)
    SELECT order_id, card, -sum(cents)
      FROM payment
     WHERE order_id = %(order_id)s
     GROUP BY order_id, card
    HAVING sum(cents) > 0
    RETURNING card, cents
)
UPDATE card SET credit = credit - refund.cents
  FROM refund
 WHERE card.card = refund.card
"""

INSERT_PARCEL = """
INSERT INTO parcel (order_id, quantity, cents)
SELECT order_id, quantity, %(cents)s
  FROM reservation
 WHERE order_id = %(order_id)s AND NOT released AND expires_at > commandbus.now()
RETURNING parcel_id
"""
