"""The floor: the rows that an audited three-step process needs, written by two statements and nothing else.

No framework, no retry, no failure, no fence, no compensation: results and progress are appended, nothing is updated but
the queue's lease. It tells how fast PostgreSQL and the driver are on this machine, at the best.
"""

import asyncio
from typing import Any
from uuid import UUID

import orjson
import psycopg
from uuid_utils.compat import uuid7

from benchmarks.systems._protocol import PROCESSES, Gate, System, main

CHUNK = 1_000
FOLLOWING = {"First": "Second", "Second": "Third"}

SCHEMA = """
    CREATE TABLE process (
        process_id uuid PRIMARY KEY, process_type text NOT NULL, status text NOT NULL, state json NOT NULL,
        batch_id uuid, created_at timestamptz NOT NULL);
    CREATE INDEX ON process (batch_id) WHERE batch_id IS NOT NULL;
    CREATE INDEX ON process (batch_id, status) WHERE batch_id IS NOT NULL;
    CREATE TABLE command (
        command_id uuid PRIMARY KEY, command_type text NOT NULL, payload json NOT NULL, process_id uuid NOT NULL,
        created_at timestamptz NOT NULL);
    CREATE INDEX ON command (process_id);
    CREATE TABLE queue (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, command_id uuid NOT NULL, lease_until timestamptz)
        WITH (fillfactor = 30);
    CREATE TABLE result (command_id uuid PRIMARY KEY, result json NOT NULL, completed_at timestamptz NOT NULL);
    CREATE TABLE progress (
        process_id uuid NOT NULL, step text, status text NOT NULL, state json NOT NULL, at timestamptz NOT NULL,
        PRIMARY KEY (process_id, at));
    CREATE TABLE event (
        command_id uuid NOT NULL, event_id bigint GENERATED ALWAYS AS IDENTITY, type text NOT NULL,
        ts timestamptz NOT NULL, PRIMARY KEY (command_id, event_id));"""

FILL = """
    WITH new AS MATERIALIZED (
        SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::json[]) AS n (process_id, command_id, payload)
    ), processes AS (
        INSERT INTO process SELECT process_id, 'ThreeSteps', 'WAITING', payload, %s, now() FROM new
    ), commands AS (
        INSERT INTO command SELECT command_id, 'First', payload, process_id, now() FROM new
    ), queued AS (
        INSERT INTO queue (command_id) SELECT command_id FROM new
    )
    INSERT INTO event (command_id, type, ts) SELECT command_id, 'SENT', now() FROM new"""

CLAIM = """
    WITH due AS (
        SELECT seq FROM queue WHERE seq > %s AND lease_until IS NULL ORDER BY seq LIMIT %s FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE queue q SET lease_until = now() + interval '30 s' FROM due WHERE q.seq = due.seq
        RETURNING q.seq, q.command_id
    ), received AS (
        INSERT INTO event (command_id, type, ts) SELECT command_id, 'RECEIVED', now() FROM leased
    )
    SELECT l.seq, l.command_id, c.command_type, c.payload::text, c.process_id
      FROM leased l JOIN command c ON c.command_id = l.command_id ORDER BY l.seq"""

SETTLE = """
    WITH o AS MATERIALIZED (
        SELECT * FROM unnest(%s::bigint[], %s::uuid[], %s::uuid[], %s::json[], %s::text[], %s::uuid[])
            AS o (seq, command_id, process_id, result, next_step, next_id)
    ), gone AS (
        DELETE FROM queue q USING o WHERE q.seq = o.seq
    ), results AS (
        INSERT INTO result SELECT command_id, result, now() FROM o
    ), advanced AS (
        INSERT INTO progress
        SELECT process_id, next_step, CASE WHEN next_step IS NULL THEN 'COMPLETED' ELSE 'WAITING' END, result, now()
          FROM o
    ), commands AS (
        INSERT INTO command SELECT next_id, next_step, result, process_id, now() FROM o WHERE next_id IS NOT NULL
    ), queued AS (
        INSERT INTO queue (command_id) SELECT next_id FROM o WHERE next_id IS NOT NULL
    )
    INSERT INTO event (command_id, type, ts)
    SELECT command_id, 'COMPLETED', now() FROM o
     UNION ALL
    SELECT next_id, 'SENT', now() FROM o WHERE next_id IS NOT NULL"""

PLANS = "SET jit = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off"


async def _handle(data: dict[str, Any]) -> dict[str, Any]:
    return {"number": data["number"], "done": data["done"] + 1}


class Floor(System):
    workloads = (PROCESSES,)
    started = "SELECT extract(epoch FROM min(ts))::float8 FROM event WHERE type = 'RECEIVED'"
    ended = "SELECT extract(epoch FROM max(ts))::float8 FROM event WHERE type = 'COMPLETED'"
    finished = "SELECT NOT EXISTS (SELECT FROM queue)"

    async def install(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(SCHEMA)

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        batch_id = uuid7()
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(PLANS)
            for first in range(0, count, CHUNK):
                numbers = range(first, min(first + CHUNK, count))
                payloads = [orjson.dumps({"number": n, "done": 0}).decode() for n in numbers]
                await conn.execute(FILL, ([uuid7() for _ in numbers], [uuid7() for _ in numbers], payloads, batch_id))

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(PLANS)
            await go.opens()
            working = asyncio.create_task(self._work(conn))
            await go.closes()
            working.cancel()

    @staticmethod
    async def _work(conn: psycopg.AsyncConnection[Any]) -> None:
        after = 0
        while True:
            async with conn.cursor(binary=True) as cursor:
                await cursor.execute(CLAIM, (after, CHUNK))
                claims = await cursor.fetchall()
            if not claims:
                after = 0
                await asyncio.sleep(0.005)
                continue
            after = claims[-1][0]
            columns: tuple[list[Any], ...] = ([], [], [], [], [], [])
            for seq, command_id, step, payload, process_id in claims:
                result = await _handle(orjson.loads(payload))
                following = FOLLOWING.get(step)
                next_id: UUID | None = uuid7() if following else None
                row = (seq, command_id, process_id, orjson.dumps(result).decode(), following, next_id)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
            await conn.execute(SETTLE, columns)


if __name__ == "__main__":
    main(Floor())
