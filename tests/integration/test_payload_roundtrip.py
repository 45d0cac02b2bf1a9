"""What is accepted, and what is made safe, comes back from real PostgreSQL as it was stored."""

import json
from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from commandbus.payload import dump_payload, load_payload, sanitise, sanitise_text
from tests.json_values import any_texts, anything, objects

shared_database = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60
)


@pytest.fixture(scope="module")
def conn(migrated_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(migrated_dsn, autocommit=True) as conn:
        conn.execute("CREATE TEMPORARY TABLE stored (payload json, note text)")
        yield conn


def store(conn: psycopg.Connection[Any], payload: str, note: str = "") -> tuple[Any, ...]:
    """The way of a settle: one JSON parameter, json_to_recordset, a json column, and back."""
    items = orjson.dumps([{"payload": orjson.Fragment(payload), "note": note}]).decode()
    conn.execute(
        "INSERT INTO stored SELECT payload, note FROM json_to_recordset(%s::json) AS item (payload json, note text)",
        (items,),
    )
    row = conn.execute(
        "WITH gone AS (DELETE FROM stored RETURNING *) SELECT payload::text, payload, note FROM gone"
    ).fetchone()
    assert row is not None
    return row


@shared_database
@given(objects)
def test_an_accepted_payload_comes_back_equal(conn: psycopg.Connection[Any], data: dict[str, Any]) -> None:
    text, loaded, _ = store(conn, dump_payload(data))
    assert load_payload(text) == data
    assert loaded == data


@shared_database
@given(anything, any_texts)
def test_whatever_was_made_safe_can_be_settled(conn: psycopg.Connection[Any], value: Any, text: str) -> None:
    safe, note = sanitise(value), sanitise_text(text)
    _, loaded, stored_note = store(conn, safe.json, note)
    assert loaded == json.loads(safe.json)
    assert stored_note == note


@pytest.mark.parametrize("bad", ['{"a":"\\u0000"}', '{"a":"\\ud800"}'])
def test_without_the_refusal_one_bad_payload_would_fail_the_whole_settle(
    conn: psycopg.Connection[Any], bad: str
) -> None:
    with pytest.raises(psycopg.errors.DataError):
        store(conn, bad)
