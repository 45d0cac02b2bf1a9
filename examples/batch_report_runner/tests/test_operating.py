"""Orphans, time limits, retention, the switch, the way back."""

import asyncio
import os
import re
import subprocess
import sys
from functools import partial
from uuid import UUID

import psycopg
import pytest
from batch_report_runner import __main__ as program
from batch_report_runner.batches import Batches
from batch_report_runner.database import prepare
from batch_report_runner.metrics import Metrics
from batch_report_runner.operating import end_all, set_starting
from batch_report_runner.upkeep import Upkeep
from conftest import serving


async def test_a_batch_that_a_crash_left_before_its_leads_began_is_found_and_run(
    site, cb_worker_pool, cb_pool, cb_clock, monkeypatch
):
    async def crash(self, batch_id: UUID) -> bool:
        raise OSError("the process dies here")

    with monkeypatch.context() as dying:
        dying.setattr(Batches, "launch", crash)
        async with site.client() as client:
            asked = {"lead_ids": [1, 2, 3], "template_version": "v1"}
            quote = (await client.post("/api/batch/preview", json=asked)).json()
            answer = await client.post("/api/batch/start", json=asked | {"accepted_cost": quote["total_cost"]})
            assert answer.status_code == 500
            (left,) = (await client.get("/api/batches")).json()
            assert left["status"] == "PENDING"
    await cb_clock.advance(6)
    async with cb_worker_pool(workers=1):
        assert (await site.until(left["batch_id"]))["status"] == "COMPLETED"
    async with cb_pool.connection() as conn:
        cursor = await conn.execute("SELECT count(*) FROM commandbus.process")
        assert (await cursor.fetchone())[0] == 3


async def test_a_crash_after_the_leads_began_starts_none_of_them_twice(site, cb_pool):
    begun = await site.start(3)
    async with cb_pool.connection() as conn:
        await conn.execute("UPDATE report.batch SET status = 'PENDING', started_at = NULL")
    launched = await asyncio.gather(*(site.state.batches.launch(UUID(begun["batch_id"])) for _ in range(3)))
    assert sum(launched) == 1
    async with cb_pool.connection() as conn:
        cursor = await conn.execute("SELECT count(*) FROM commandbus.process")
        assert (await cursor.fetchone())[0] == 3


async def test_a_batch_beyond_its_time_limit_has_failed_and_keeps_what_was_done(
    site, cb_chaos, cb_worker_pool, cb_clock
):
    cb_chaos(FetchFigures={"min_duration_ms": 100, "max_duration_ms": 200})
    async with cb_worker_pool(workers=1, concurrency=3):
        begun = await site.start(200)
        await site.until(begun["batch_id"], lambda state: state["succeeded"])
        await cb_clock.advance(1801)
        ended = await site.until(begun["batch_id"])
    assert (ended["status"], "time limit" in ended["error"]) == ("FAILED", True)
    assert ended["succeeded"] > 0
    assert ended["cancelled"] > 0
    assert float(ended["actual_cost"]) > 0


async def test_what_is_old_is_pruned_with_its_reports(site, cb_worker_pool, cb_clock, cb_pool, settings):
    async with cb_worker_pool(workers=1):
        begun = await site.start(2)
        await site.until(begun["batch_id"])
    folder = settings.data / "reports" / begun["batch_id"]
    assert len(list(folder.iterdir())) == 2
    assert await site.state.upkeep.prune() == 0
    await cb_clock.advance(31 * 86_400)
    assert await site.state.upkeep.prune() == 1
    assert not folder.exists()
    async with cb_pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT (SELECT count(*) FROM report.charge) + (SELECT count(*) FROM report.progress)"
            " + (SELECT count(*) FROM report.batch_lead), (SELECT count(*) FROM report.quote)"
        )
        assert await cursor.fetchone() == (0, 2)  # the history of costs stays
    assert (await site.state.source.look(UUID(begun["batch_id"]))).told["status"] == "PRUNED"


async def test_the_upkeep_has_one_leader_and_an_heir(settings, leads_dsn, cb_pool):
    count = """
        SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = 'report upkeep'
           AND a.datname = current_database()"""

    async def held() -> int:
        async with cb_pool.connection() as conn:
            return (await (await conn.execute(count)).fetchone())[0]

    async with asyncio.timeout(90), serving(settings, leads_dsn) as heir:
        async with serving(settings, leads_dsn) as first:
            while await held() != 1:
                await asyncio.sleep(0.05)
            await first.start(1)
        while await held() != 1:
            await asyncio.sleep(0.05)
        async with heir.client() as client:
            assert (await client.get("/healthz")).text == "ok"


async def test_switched_off_by_an_operator_until_switched_on(site, leads_dsn):
    asked = {"lead_ids": [1], "template_version": "v1", "accepted_cost": "0.59"}
    await set_starting(leads_dsn, False)
    async with site.client() as client:
        quote = (await client.post("/api/batch/preview", json={"lead_ids": [1]})).json()
        refused = await client.post("/api/batch/start", json=asked | {"accepted_cost": quote["total_cost"]})
        assert refused.json()["error"]["code"] == "SWITCHED_OFF"
        await set_starting(leads_dsn, True)
        begun = await client.post("/api/batch/start", json=asked | {"accepted_cost": quote["total_cost"]})
        assert begun.status_code == 202


async def test_a_rollback_ends_what_runs_and_takes_the_schema_back(settings, leads_dsn, monkeypatch, capsys):
    async with serving(settings, leads_dsn) as site:
        begun = await site.start(5)
        assert await end_all(leads_dsn, settings, patience=30) == 0
        assert (await site.status(begun["batch_id"]))["status"] == "CANCELLED"
    assert await asyncio.to_thread(program.main, ["rollback", "--dsn", leads_dsn]) == 0
    assert "rolled back" in capsys.readouterr().out
    with psycopg.connect(leads_dsn) as conn:
        assert conn.execute("SELECT to_regclass('report.batch')").fetchone() == (None,)
    assert prepare(leads_dsn) == ["V001__leads_and_batches.sql"]  # and again from the beginning
    with psycopg.connect(leads_dsn) as conn:
        assert conn.execute("SELECT count(*), count(DISTINCT name) > 50 FROM report.lead").fetchone() == (5000, True)
    await asyncio.to_thread(program.main, ["disable", "--dsn", leads_dsn])
    with psycopg.connect(leads_dsn) as conn:
        assert conn.execute("SELECT is_on FROM report.switch").fetchone() == (False,)
    await asyncio.to_thread(program.main, ["enable", "--dsn", leads_dsn])


async def test_a_rollback_waits_for_what_is_in_flight(
    site, settings, leads_dsn, cb_chaos, cb_worker_pool, monkeypatch, capsys
):
    cb_chaos(FetchFigures={"min_duration_ms": 4000, "max_duration_ms": 4000})
    async with cb_worker_pool(workers=1):
        begun = await site.start(1)
        await site.until(begun["batch_id"], lambda state: state["current_lead"])
        monkeypatch.setattr(program, "end_all", partial(end_all, patience=0))
        assert await asyncio.to_thread(program.main, ["rollback", "--dsn", leads_dsn]) == 1
        assert "1 batches still run" in capsys.readouterr().err
        assert await end_all(leads_dsn, settings, patience=120) == 0
        assert (await site.until(begun["batch_id"]))["status"] == "CANCELLED"


def test_a_program_without_users_or_a_database_has_its_own(tmp_path):
    command = [sys.executable, "-m", "batch_report_runner", "--port=0", "--workers=0"]
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "BATCH_USERS")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        said = [running.stdout.readline() for _ in range(3)]
        running.terminate()
        assert running.wait(120) == 0
    assert "a PostgreSQL of its own" in said[0]
    assert re.fullmatch(r"no BATCH_USERS: user demo, token \S{20,}\n", said[1])
    assert said[2].startswith("listening on")


def test_the_command_line_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for arguments in (["rollback"], ["dance"]):
        with pytest.raises(SystemExit):
            program.main(arguments)
    monkeypatch.setenv("BATCH_PARALLEL", "many")
    with pytest.raises(SystemExit):
        program.main([])
    told = capsys.readouterr().err
    assert "DATABASE_URL" in told
    assert "BATCH_PARALLEL='many'" in told


async def test_a_round_that_fails_for_one_batch_goes_on_with_the_next(settings, leads_dsn, cb_pool, site, monkeypatch):
    metrics = Metrics()
    upkeep = Upkeep(cb_pool, leads_dsn, site.state.batches, settings, metrics)
    seen = []

    async def broken(batch) -> None:
        seen.append(batch["batch_id"])
        raise OSError("disk")

    await site.start(1)
    await site.start(1)
    monkeypatch.setattr(upkeep, "_look_after", broken)
    await upkeep.round()
    assert len(seen) == 2
    assert metrics.upkeep_errors._value.get() == 2


async def test_a_lead_that_is_gone_has_failed_and_the_others_go_on(site, cb_worker_pool, cb_pool):
    begun = await site.start(3)
    async with cb_pool.connection() as conn:
        await conn.execute("DELETE FROM report.lead WHERE lead_id = 2")
    async with cb_worker_pool(workers=1):
        ended = await site.until(begun["batch_id"])
    assert (ended["status"], ended["failed"], ended["succeeded"]) == ("COMPLETED_WITH_ERRORS", 1, 2)
    assert ended["latest_errors"][0]["error_code"] == "NO_SUCH_LEAD"


async def test_the_stub_fails_for_the_same_leads_again(settings):
    from batch_report_runner.provider import ProviderStub

    from commandbus import TransientCommandError

    stub = ProviderStub(failure_pct=50)

    async def outcome(lead_id: int) -> bool:
        try:
            await stub.fetch({"lead_id": lead_id, "provider": None}, ["acme"])
        except TransientCommandError:
            return False
        return True

    first = [await outcome(i) for i in range(100)]
    assert first == [await outcome(i) for i in range(100)]
    assert 20 < sum(first) < 80
