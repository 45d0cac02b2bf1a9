"""The clock under test: when it skips, when it must not, and the races between it and workers."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from pytest_commandbus import behavior_sql as sql
from tests.integration.bus_history import DOMAIN, Bus


@pytest.fixture
def bus(e2e_dsn: str) -> Iterator[Bus]:
    with psycopg.connect(e2e_dsn, autocommit=True) as conn:
        yield Bus(conn)


@pytest.fixture
def other(e2e_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Another session, whose transactions stay open until it commits."""
    with psycopg.connect(e2e_dsn) as conn:
        yield conn


def worker(bus: Bus, *, alive: str = "1 hour", process_types: str = "{}") -> int:
    """Register a worker; one with a negative time to live is dead."""
    return int(
        bus.rows(
            "INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency, started_at,"
            " heartbeat_at, alive_until) VALUES (%(domain)s, 'here', 1, '{}', %(types)s::text[], 1, clock_timestamp(),"
            " clock_timestamp(), clock_timestamp() + %(alive)s::interval) RETURNING worker_id",
            domain=DOMAIN,
            alive=alive,
            types=process_types,
        )[0]["worker_id"]
    )


def skip(bus: Bus) -> float:
    return float(bus.rows(sql.SKIP_CLOCK)[0]["skip_clock"])


def skipped(bus: Bus) -> float:
    return float(bus.rows("SELECT extract(epoch FROM commandbus.now() - statement_timestamp()) AS s")[0]["s"])


def test_a_retry_that_waits_is_due_after_a_skip(bus: Bus) -> None:
    live = worker(bus)
    bus.send("a")
    bus.settle(bus.claim("a", worker=live), "RETRY_SCHEDULED", delay=300)
    assert bus.rows("SELECT due_at > commandbus.now() AS waits FROM commandbus.scheduled") == [{"waits": True}]
    assert 250 < skip(bus) <= 300
    assert bus.claim("a", worker=live)["failures"] == 1
    assert 250 < skipped(bus) <= 300


def test_it_skips_to_the_next_moment_and_no_further(bus: Bus) -> None:
    live = worker(bus)
    bus.send("soon", "later")
    bus.settle(bus.claim("soon", worker=live), "RETRY_SCHEDULED", delay=10)
    bus.settle(bus.claim("later", worker=live), "RETRY_SCHEDULED", delay=60)
    assert 0 < skip(bus) <= 10
    assert skip(bus) == 0, "the first retry is due: it must be done before time goes on"
    bus.settle(bus.claim("soon", worker=live))
    assert 20 < skip(bus) < 60, "the second was scheduled a little later than the first"


def test_nothing_to_wait_for_skips_nothing(bus: Bus) -> None:
    assert skip(bus) == 0
    bus.send("a")
    bus.park("a")
    assert skip(bus) == 0
    assert skipped(bus) == 0


def test_a_command_that_is_due_keeps_the_clock(bus: Bus) -> None:
    bus.send("a", "b")
    bus.settle(bus.claim("a"), "RETRY_SCHEDULED", delay=300)
    assert skip(bus) == 0


def test_a_lease_of_a_live_worker_keeps_the_clock(bus: Bus) -> None:
    live = worker(bus)
    bus.send("a", "b")
    bus.settle(bus.claim("a", worker=live), "RETRY_SCHEDULED", delay=300)
    claim = bus.claim("b", worker=live)
    assert skip(bus) == 0
    bus.settle(claim)
    assert skip(bus) > 0


@pytest.mark.parametrize("death", ["heartbeat", "stop", "unknown"])
def test_a_lease_of_a_dead_worker_runs_out_at_once(bus: Bus, death: str) -> None:
    dead = 4_711 if death == "unknown" else worker(bus, alive="-1 second" if death == "heartbeat" else "1 hour")
    if death == "stop":
        bus.rows("UPDATE commandbus.worker SET stopped_at = clock_timestamp()")
    bus.send("a")
    bus.claim("a", worker=dead, lease="30 seconds")
    assert 10 < skip(bus) <= 30
    assert skip(bus) == 0, "whose lease ran out is due"
    assert bus.claim("a", worker=worker(bus))["lost_leases"] == 1


def test_a_lease_that_ran_out_keeps_the_clock_until_it_is_taken_over(bus: Bus) -> None:
    live = worker(bus)
    bus.send("a", "b")
    bus.settle(bus.claim("a", worker=live), "RETRY_SCHEDULED", delay=300)
    bus.claim("b", worker=live, lease="0")
    assert skip(bus) == 0


@pytest.mark.parametrize(("types", "keeps"), [("{Order}", True), ("{Other}", False)])
def test_a_reply_keeps_the_clock_while_somebody_can_route_it(bus: Bus, types: str, keeps: bool) -> None:
    live = worker(bus, process_types=types)
    bus.send("a", "b", reply_to="process:Order")
    bus.settle(bus.claim("a", worker=live))
    bus.settle(bus.claim("b", worker=live), "RETRY_SCHEDULED", delay=10)
    assert bus.rows("SELECT count(*) AS n FROM commandbus.reply")[0]["n"] == 1
    assert (skip(bus) == 0) is keeps


def test_a_reply_for_a_consumer_does_not_keep_the_clock(bus: Bus) -> None:
    live = worker(bus, process_types="{Order}")
    bus.send("a", "b", reply_to="a.consumer")
    bus.settle(bus.claim("a", worker=live))
    bus.settle(bus.claim("b", worker=live), "RETRY_SCHEDULED", delay=10)
    assert skip(bus) > 0


def test_a_skip_wakes_the_domain_whose_command_is_due(bus: Bus, e2e_dsn: str) -> None:
    with psycopg.connect(e2e_dsn, autocommit=True) as listener:
        channel = bus.rows("SELECT commandbus.channel(%(domain)s) AS c", domain=DOMAIN)[0]["c"]
        bus.send("a")
        bus.settle(bus.claim("a"), "RETRY_SCHEDULED", delay=300)
        listener.execute(SQL("LISTEN {}").format(Identifier(channel)))
        assert skip(bus) > 0
        assert [n.channel for n in listener.notifies(timeout=10, stop_after=1)] == [channel]


def test_the_race_of_a_claim_that_read_the_clock_before_a_skip(bus: Bus, other: psycopg.Connection[Any]) -> None:
    """A worker has read the time, and leases by it what is sent a moment later: time must not jump over that lease."""
    live = worker(bus)
    bus.send("waits")
    bus.settle(bus.claim("waits", worker=live), "RETRY_SCHEDULED", delay=300)
    other.execute("SELECT commandbus.now()")  # the claim's first act, its transaction still open
    assert skip(bus) == 0
    bus.send("fresh")
    lease = Bus(other, bus.ids).claim("fresh", worker=live, lease="30 seconds")
    other.commit()
    assert lease["command_id"] == bus.named("fresh")
    assert skip(bus) == 0
    assert bus.rows("SELECT lease_until > commandbus.now() AS held FROM commandbus.queue") == [{"held": True}]


def test_the_race_of_a_claim_that_reads_the_clock_during_a_skip(bus: Bus, other: psycopg.Connection[Any]) -> None:
    """A worker that comes while time is being skipped waits, and leases by the new time."""
    live = worker(bus)
    bus.send("waits")
    bus.settle(bus.claim("waits", worker=live), "RETRY_SCHEDULED", delay=300)
    assert 299 < other.execute(sql.SKIP_CLOCK).fetchone()[0] <= 300  # type: ignore[index]
    claims: list[dict[str, Any]] = []
    claiming = threading.Thread(target=lambda: claims.append(bus.claim("waits", worker=live, lease="30 seconds")))
    claiming.start()
    _wait_until_blocked(other, bus.conn.info.backend_pid)
    other.commit()
    claiming.join(timeout=30)
    assert claims[0]["failures"] == 1
    assert bus.rows("SELECT lease_until > commandbus.now() AS held FROM commandbus.queue") == [{"held": True}]


def test_the_race_of_a_settle_that_is_not_committed(bus: Bus, other: psycopg.Connection[Any]) -> None:
    """Between claim and settle a live worker's lease keeps the clock; so does a settle that is under way."""
    live = worker(bus)
    bus.send("a", "b")
    bus.settle(bus.claim("b", worker=live), "RETRY_SCHEDULED", delay=300)
    claim = bus.claim("a", worker=live)
    assert skip(bus) == 0
    Bus(other, bus.ids).settle(claim, "RETRY_SCHEDULED", delay=10)
    assert skip(bus) == 0
    other.commit()
    assert 0 < skip(bus) <= 10


def test_the_race_of_a_send_that_is_not_committed(bus: Bus, other: psycopg.Connection[Any]) -> None:
    bus.send("a")
    bus.settle(bus.claim("a"), "RETRY_SCHEDULED", delay=300)
    Bus(other, bus.ids).send("b")
    assert skip(bus) == 0
    other.commit()
    assert skip(bus) == 0
    bus.settle(bus.claim("b"))
    assert skip(bus) > 0


def test_of_two_who_skip_at_once_one_does(bus: Bus, other: psycopg.Connection[Any]) -> None:
    bus.send("a")
    bus.settle(bus.claim("a"), "RETRY_SCHEDULED", delay=300)
    assert other.execute(sql.SKIP_CLOCK).fetchone()[0] > 299  # type: ignore[index]
    assert skip(bus) == 0
    other.commit()
    assert skip(bus) == 0
    assert 250 < skipped(bus) <= 300


def test_a_skip_in_a_frozen_snapshot_is_refused(other: psycopg.Connection[Any]) -> None:
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with pytest.raises(psycopg.Error, match="call it in a READ COMMITTED transaction"):
        other.execute(sql.SKIP_CLOCK)


def test_advancing_by_hand_lets_leases_run_out(bus: Bus) -> None:
    bus.send("a")
    bus.claim("a", worker=worker(bus), lease="30 seconds")
    bus.rows(sql.ADVANCE_CLOCK, seconds=31)
    assert bus.claim("a", worker=worker(bus))["lost_leases"] == 1
    assert bus.rows("SELECT extract(epoch FROM skipped)::integer AS seconds FROM e2e.clock") == [{"seconds": 31}]


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_time_never_goes_back_nor_away(bus: Bus, seconds: float) -> None:
    with pytest.raises(psycopg.Error, match="the clock can be advanced by 0 to 3e9 seconds"):
        bus.rows(sql.ADVANCE_CLOCK, seconds=seconds)
    assert skipped(bus) == 0


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Australia/Lord_Howe"])
def test_a_skip_of_months_is_exact_in_every_time_zone(bus: Bus, zone: str) -> None:
    """Days of 23 and 25 hours lie between: an interval of days would miss the moment."""
    bus.rows("SELECT set_config('timezone', %(zone)s, false)", zone=zone)
    live = worker(bus)
    bus.send("a")
    bus.settle(bus.claim("a", worker=live), "RETRY_SCHEDULED", delay=200 * 86_400)
    assert skip(bus) == pytest.approx(200 * 86_400, abs=5)
    assert bus.claim("a", worker=live)["failures"] == 1
    assert skipped(bus) == pytest.approx(200 * 86_400, abs=5)


def _wait_until_blocked(conn: psycopg.Connection[Any], pid: int) -> None:
    """Until the other session waits for a lock of ours; the statement's timeout is the deadline."""
    conn.execute("SET LOCAL statement_timeout = '30s'")
    conn.execute(
        "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_locks WHERE pid = "
        + str(int(pid))
        + " AND NOT granted) LOOP PERFORM pg_sleep(0.005); END LOOP; END $$"
    )
