"""Faults of the machinery: each kind is injected into real workers, and the bus survives it."""

import asyncio
import os
import re

import psutil
import pytest

from pytest_commandbus.faults.points import POINTS
from pytest_commandbus.faults.session import NeverInjectedError

from .conftest import Suite
from .shop import OrderProcess
from .test_worker_pool import wait_until

LATE = "SELECT count(*) FROM commandbus.event WHERE type = 'LATE_OUTCOME_DROPPED'"


async def one(pool, statement: str):
    """The one value that answers a question to the test's database."""
    async with pool.connection() as connection:
        return (await (await connection.execute(statement)).fetchone())[0]


async def test_a_worker_killed_at_any_point_loses_nothing_and_is_replaced(cb_worker_pool, cb_command_batch, cb_faults):
    async with cb_worker_pool(workers=1) as pool:
        for point in POINTS:
            killed = pool.pids
            async with cb_faults.kill(at=point) as kill:
                batch = await cb_command_batch("mail", "SendMail")
                await batch.complete()
            await batch.assert_completed()
            assert [(i.kind, i.point, [i.pid]) for i in kill.injected] == [("kill", point, killed)]
            (command,) = await batch.commands()
            assert (command.attempts, command.lost_leases) == (1, 0 if point == POINTS[-1] else 1)
            assert len(pool.pids) == 1


async def test_a_frozen_worker_whose_command_another_took_changes_nothing_when_it_goes_on(
    cb_worker_pool, cb_process_batch, cb_faults, cb_pool
):
    async with cb_worker_pool(workers=2, concurrency=1) as pool:
        async with cb_faults.freeze(at="after_handler", step="pay") as freeze:
            batch = await cb_process_batch(OrderProcess)
            await batch.complete()
            (frozen,) = freeze.injected
        assert frozen.commands == ("TakePayment of process 0",)
        assert frozen.pid in pool.pids  # it was not replaced
    (process,) = await batch.processes()
    events = [(entry.step, entry.event) for entry in await batch.timeline(process.process_id)]
    assert events.count(("TakePayment", "RECEIVED")) == 2
    assert events.count(("TakePayment", "COMPLETED")) == 1
    assert events.count(("TakePayment", "LATE_OUTCOME_DROPPED")) == 1
    assert events.count(("ShipParcel", "SENT")) == 1
    assert await one(cb_pool, "SELECT count(*) FROM commandbus.reply") == 0


async def test_workers_go_on_through_lost_sessions_crashes_and_restarts_of_the_server(
    cb_worker_pool, cb_process_batch, cb_faults
):
    batch = await cb_process_batch(OrderProcess, count=60, initial_data={"slow": 0.01}, workers=0)
    async with (
        cb_faults.terminate(rate=20, times=4) as terminate,
        cb_faults.crash_postgres(at="before_settle", nth=2) as crash,
        cb_faults.restart_postgres(at="after_settle_before_ack", step="pay") as restart,
        cb_worker_pool(workers=2, concurrency=5, processes=False),
    ):
        await batch.complete()
        await terminate.wait(4)
    await batch.assert_completed()
    assert [len(fault.injected) for fault in (crash, restart)] == [1, 1]
    processes = await batch.processes()
    assert [p.status for p in processes] == ["COMPLETED"] * 60


async def test_the_answer_to_a_commit_is_lost_and_nothing_is_doubled(
    cb_worker_pool, cb_command_batch, cb_faults, cb_pool
):
    async with cb_worker_pool(workers=1, processes=False):
        async with cb_faults.network(at="before_settle", reset_peer=True, stream="downstream") as network:
            batch = await cb_command_batch("mail", "SendMail", count=5)
            await batch.complete()
        assert len(network.injected) == 1
        settled = "SELECT count(*) FROM commandbus.event WHERE type = 'COMPLETED'"
        assert [await one(cb_pool, LATE), await one(cb_pool, settled)] == [0, 5]
        assert {(c.attempts, c.lost_leases) for c in await batch.commands()} == {(1, 0)}


async def test_a_worker_behind_a_black_hole_loses_its_lease_and_hears_of_it_later(
    cb_worker_pool, cb_command_batch, cb_faults, cb_pool
):
    async with cb_worker_pool(workers=2, concurrency=1, visibility_timeout=2) as pool:
        async with cb_faults.network(at="before_settle", timeout_ms=0, seconds=600) as network:
            batch = await cb_command_batch("mail", "SendMail")
            await batch.complete()
            (hole,) = network.injected
        assert hole.pid in pool.pids
    (command,) = await batch.commands()
    assert (command.attempts, command.lost_leases) == (1, 1)
    assert await one(cb_pool, LATE) == 1


async def test_a_slow_network_and_an_old_snapshot_hold_nothing_up_for_good(
    cb_worker_pool, cb_process_batch, cb_faults, cb_pool
):
    oldest = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cb-old-snapshot' AND backend_xmin IS NOT NULL"
    )
    async with cb_worker_pool(workers=1, processes=False):
        async with cb_faults.network(latency_ms=5, jitter_ms=5), cb_faults.old_snapshot():
            assert await one(cb_pool, oldest) == 1
            batch = await cb_process_batch(OrderProcess, count=5)
            await batch.complete()
        assert [i.kind for i in cb_faults.injected] == ["old_snapshot", "network"]
    assert await one(cb_pool, oldest) == 0


async def test_a_full_disk_changes_no_state_and_is_recovered_from(cb_worker_pool, cb_process_batch, cb_faults):
    async with cb_worker_pool(workers=1, processes=False) as pool:
        batch = await cb_process_batch(OrderProcess, count=200)
        await pool.claimed()
        async with cb_faults.full_disk():
            stats = await batch.refresh()
        await batch.complete()
    await batch.assert_completed()
    assert stats.total_count == 200


async def test_halted_faults_come_no_more(cb_worker_pool, cb_command_batch, cb_faults):
    async with cb_worker_pool(workers=1, processes=False):
        async with cb_faults.terminate(at="before_handler", pct=100) as terminate:
            await (await cb_command_batch("mail", "SendMail")).complete()
            before = terminate.injected
            cb_faults.halt()
            await (await cb_command_batch("mail", "SendMail", count=3)).complete()
        assert terminate.injected == before
        with pytest.raises(NeverInjectedError, match="terminate.* was never injected"):
            async with cb_faults.terminate(rate=100):
                await (await cb_command_batch("mail", "SendMail")).complete()


def test_faults_by_hand_in_a_plain_test(cb_worker_pool, cb_command_batch, cb_faults):
    with cb_worker_pool(workers=1) as pool:
        first = pool.pids
        batch = cb_command_batch("mail", "SendMail", count=5)
        (killed,) = cb_faults.kill()
        cb_faults.terminate()
        cb_faults.crash_postgres(seconds=0.05)
        cb_faults.freeze(seconds=0.05)
        batch.complete()
        assert [killed.pid] == first
        with cb_faults.kill(at="after_handler", where=lambda passage: passage.data == {"to": "ann"}) as kill:
            cb_command_batch("mail", "SendMail", data={"to": "bob"}).complete()
            assert kill.injected == []
            cb_command_batch("mail", "SendMail", data={"to": "ann"}).complete()
    assert [i.kind for i in cb_faults.injected] == ["kill", "terminate", "crash_postgres", "freeze", "kill"]
