-- Our own tables, beside those of the bus in the schema commandbus. Nothing here is unique by order: that no effect comes
-- twice is the handlers' business, and the tests would see it.
CREATE TABLE stock (
    sku      text   PRIMARY KEY,
    received bigint NOT NULL,
    on_hand  bigint NOT NULL CHECK (on_hand >= 0)
);

CREATE TABLE reservation (
    order_id   bigint      NOT NULL,
    sku        text        NOT NULL REFERENCES stock,
    quantity   bigint      NOT NULL CHECK (quantity > 0),
    expires_at timestamptz NOT NULL,
    released   boolean     NOT NULL DEFAULT false
);
CREATE INDEX reservation_order ON reservation (order_id);

CREATE TABLE card (
    card         text   PRIMARY KEY,
    credit_limit bigint NOT NULL,
    credit       bigint NOT NULL CHECK (credit >= 0)
);

-- A refund is a payment of less than nothing.
CREATE TABLE payment (
    order_id bigint NOT NULL,
    card     text   NOT NULL REFERENCES card,
    cents    bigint NOT NULL
);
CREATE INDEX payment_order ON payment (order_id);

CREATE TABLE parcel (
    parcel_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id  bigint NOT NULL,
    quantity  bigint NOT NULL,
    cents     bigint NOT NULL
);
