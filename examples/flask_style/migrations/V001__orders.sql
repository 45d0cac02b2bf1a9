-- The shop's own table; the bus has its tables in the schema commandbus.
CREATE TABLE orders (
    order_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer   text   NOT NULL,
    cents      bigint NOT NULL CHECK (cents > 0),
    process_id uuid,
    parcel     text
);
