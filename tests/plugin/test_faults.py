"""Faults of the machinery: each kind is injected into real workers, and the bus survives it."""

import asyncio
import socket

import psutil
import pytest

from pytest_commandbus.chaos import RollKey
from pytest_commandbus.faults.faults_sql import SILENT_WORKER
from pytest_commandbus.faults.points import POINTS
from pytest_commandbus.faults.rules import is_hit, rule_of
from pytest_commandbus.faults.session import NeverInjectedError
from pytest_commandbus.run import RUN
from tests.integration.worker_kit import eventually

from .conftest import Suite
from .shop import OrderProcess
from .test_worker_pool import wait_until

pytestmark = pytest.mark.usefixtures("measured")


async def one(pool, statement: str):
    """The one value that answers a question to the test's database."""
    async with pool.connection() as connection:
        return (await (await connection.execute(statement)).fetchone())[0]


async def events(cb_bus, batch) -> list[str]:
    """The types of the events of a batch's only command."""
    (command_id,) = await batch.command_ids()
    return [event.event_type for event in await cb_bus.get_audit_trail(command_id)]


async def test_a_worker_killed_at_any_point_loses_nothing_and_is_replaced(
    cb_worker_pool, cb_command_batch, cb_faults, cb_bus
):
    async with cb_worker_pool(workers=1) as pool:
        for point in POINTS:
            killed = pool.pids
            async with cb_faults.kill(at=point) as kill:
                batch = await cb_command_batch("mail", "SendMail")
                await batch.complete()
            await batch.assert_completed()
            assert [(i.kind, i.point, [i.pid]) for i in kill.injected] == [("kill", point, killed)]
            (command,) = await batch.commands()
            assert command.attempts == 1  # a lost lease uses up none
            claims = 1 if point == "after_settle_before_ack" else 2
            assert await events(cb_bus, batch) == ["SENT", *["RECEIVED"] * claims, "COMPLETED"]
            assert len(pool.pids) == 1


async def test_a_frozen_worker_whose_command_another_took_changes_nothing_when_it_goes_on(
    cb_worker_pool, cb_process_batch, cb_faults, cb_pool, tmp_path
):
    (until := tmp_path / "until").touch()
    claims = ["SENT", "RECEIVED", "RECEIVED"]
    async with cb_worker_pool(workers=2, concurrency=1, visibility_timeout=300) as pool:
        async with cb_faults.freeze(at="after_handler", step="pay") as freeze:
            batch = await cb_process_batch(OrderProcess, initial_data={"until": str(until)})
            process_id = (await batch.processes())[0].process_id

            async def taken() -> list[str]:
                return [e.event for e in await batch.timeline(process_id) if e.step == "TakePayment"]

            async def came_late() -> bool | None:
                return len(await taken()) > len(claims) or None

            waiting = asyncio.create_task(batch.complete())  # which takes a silent worker's leases away
            await eventually(came_late, "the outcome of the worker that was frozen", patience=60)
            assert await taken() == [*claims, "LATE_OUTCOME_DROPPED"]
            (tmp_path / "until.heir").touch()
            await waiting
            (frozen,) = freeze.injected
        assert frozen.commands == ("TakePayment of process 0",)
        assert frozen.pid in pool.pids  # it was not replaced
    assert await taken() == [*claims, "LATE_OUTCOME_DROPPED", "COMPLETED"]
    shipped = [e.event for e in await batch.timeline(process_id) if e.step == "ShipParcel"]
    assert shipped == ["SENT", "RECEIVED", "COMPLETED"]
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
    cb_worker_pool, cb_command_batch, cb_faults, cb_bus, caplog
):
    async with cb_worker_pool(workers=1, processes=False):
        async with cb_faults.network(at="before_settle", reset_peer=True, stream="downstream") as network:
            batch = await cb_command_batch("mail", "SendMail")
            await batch.complete()
        assert len(network.injected) == 1
    assert [r.message.split(",")[0] for r in caplog.records if r.message.startswith("settle")] == ["settle failed"]
    assert await events(cb_bus, batch) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_a_worker_behind_a_black_hole_loses_its_lease_and_hears_of_it_later(
    cb_worker_pool, cb_command_batch, cb_faults, cb_bus, cb_pool
):
    async with cb_worker_pool(workers=2, concurrency=1) as pool:
        async with cb_faults.network(at="before_settle", timeout_ms=0, seconds=600) as network:
            batch = await cb_command_batch("mail", "SendMail")
            (hole,) = await network.wait()
            async with cb_pool.connection() as connection:  # as if it had been silent for some time
                await connection.execute(SILENT_WORKER, {"pid": hole.pid, "host": socket.gethostname()})
            await batch.complete()
        assert hole.pid in pool.pids
    assert sorted(await events(cb_bus, batch)) == [
        *("COMPLETED", "LATE_OUTCOME_DROPPED", "RECEIVED", "RECEIVED", "SENT"),
    ]


async def test_a_slow_network_and_an_old_snapshot_hold_nothing_up_for_good(
    cb_worker_pool, cb_process_batch, cb_faults, cb_pool
):
    held = "SELECT count(backend_xmin) FROM pg_stat_activity WHERE application_name = 'cb-old-snapshot'"
    async with cb_worker_pool(workers=1, processes=False):
        async with cb_faults.network(latency_ms=5, jitter_ms=5), cb_faults.old_snapshot():
            assert await one(cb_pool, held) == 1
            batch = await cb_process_batch(OrderProcess, count=5)
            await batch.complete()
        assert [i.kind for i in cb_faults.injected] == ["network", "old_snapshot"]

    async def released() -> bool | None:
        return await one(cb_pool, held) == 0 or None

    await eventually(released, "the end of the session that held it", patience=60)


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
        with pytest.raises(NeverInjectedError, match=r"terminate.* was never injected"):
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


async def test_a_percentage_hits_what_the_seed_says(cb_worker_pool, cb_command_batch, cb_faults, request):
    seed = request.config.stash[RUN].seed
    async with cb_worker_pool(workers=1, processes=False):
        async with cb_faults.network(at="after_handler", pct=30, latency_ms=1, seconds=0.01) as slow:
            await (await cb_command_batch("mail", "SendMail", count=40, data={"to": "ann"})).complete()
    rule = rule_of("network", {"at": "after_handler", "pct": 30, "latency_ms": 1}, "here")
    keys = {n: RollKey(1, n, "SendMail", 1, 0).encode() for n in range(40)}
    expected = {f"SendMail of command {n}" for n, key in keys.items() if is_hit(seed, 1, rule, key, 0)}
    assert expected
    assert {label for injection in slow.injected for label in injection.commands} == expected


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ('faults(kil={"rate": 1})', "*test_it: @pytest.mark.faults: no fault is called 'kil'; did you mean 'kill'?*"),
        ("faults(kill={})", "*test_it: @pytest.mark.faults(kill=…): say when, such as kill=*"),
        ('faults("kill")', "*@pytest.mark.faults takes kinds of faults by keyword, and at least one*"),
        (
            'cb_crash_matrix(points=["before_setle"])',
            "*takes points=[[]…], some of after_claim*'before_setle' is none*",
        ),
        ('faults(crash_postgres={"rate": 1}, load_=1)', "*no fault is called 'load_'*"),
    ],
)
def test_a_marker_that_says_nothing_valid_is_a_usage_error(suite: Suite, marker: str, told: str):
    suite.write(f"@pytest.mark.{marker}\nasync def test_it(cb_process_batch): ...\n")
    result = suite.run()
    assert result.ret != pytest.ExitCode.OK
    (result.stderr if any("ERROR: " in line for line in result.errlines) else result.stdout).fnmatch_lines([told])


def test_a_marker_that_does_not_fit_its_test_is_a_usage_error(suite: Suite):
    for text, told in (
        ("@pytest.mark.cb_crash_matrix\nasync def test_it(cb_bus): ...", "*a crash matrix needs workers*"),
        (
            "@pytest.mark.load\n@pytest.mark.faults(full_disk=True)\nasync def test_it(cb_load): ...",
            "*full_disk needs a server of the test's own, and the shards of a load test share one*",
        ),
        (
            '@pytest.mark.cb_database(scope="module")\nasync def test_it(cb_faults): ...',
            "*a test that may crash its server shares no database*",
        ),
    ):
        suite.write(text)
        result = suite.run()
        assert result.ret != pytest.ExitCode.OK
        (result.stderr if result.errlines else result.stdout).fnmatch_lines([told])


@pytest.mark.slow  # its last case is waited for as long as a recovery may take
def test_what_fails_a_test_with_faults(suite: Suite):
    suite.write(
        """
        IN_PROCESS = {"workers": 1, "processes": False}
        at = {"at": "before_settle"}

        @pytest.mark.faults(terminate={**at, "step": "return"})
        async def test_idle(cb_process_batch):
            await (await cb_process_batch(OrderProcess, **IN_PROCESS)).complete()

        @pytest.mark.faults(terminate=at)
        async def test_no_workers(cb_bus):
            pass

        @pytest.mark.faults(terminate=at)
        def test_no_bus():
            pass

        @pytest.mark.faults(terminate={**at, "step": "cook"})
        async def test_unknown_step(cb_process_batch):
            await cb_process_batch(OrderProcess, **IN_PROCESS)

        @pytest.mark.faults(kill=at)
        async def test_in_process(cb_process_batch):
            await (await cb_process_batch(OrderProcess, **IN_PROCESS)).complete()

        @pytest.mark.faults(terminate={**at, "where": lambda passage: passage.colour})
        async def test_where(cb_process_batch):
            await (await cb_process_batch(OrderProcess, **IN_PROCESS)).complete()

        @pytest.mark.faults(terminate=at)
        async def test_report(cb_process_batch, cb_pool):
            await (await cb_process_batch(OrderProcess, **IN_PROCESS)).complete()
            async with cb_pool.connection() as connection:
                await connection.execute("DELETE FROM commandbus.event WHERE type = 'RECEIVED'")
        """
    )
    result = suite.run("-rf")
    result.assert_outcomes(failed=7)
    result.stdout.fnmatch_lines(
        [
            "*@pytest.mark.faults: terminate(*'return') was never injected: no worker*",
            "*the faults of this test were never injected: it runs no workers*",
            "*@pytest.mark.faults was never injected: the test uses no fixture of the bus*",
            "*no step or command type is called 'cook'; valid are*",
            "*kill needs worker processes, and these workers run in the test's own process*",
            "*'Passage' object has no attribute 'colour'*",
            "*amid these faults:*",
            "* s  terminate  at before_settle  pid *sessions  ReserveStock of process 0",
            "*commandbus: faults that were injected*",
            "* s  terminate  at before_settle  pid *sessions  ReserveStock of process 0",
        ]
    )


async def test_a_fault_says_how_it_is_to_be_used(cb_worker_pool, cb_faults, cb_command_batch):
    with pytest.raises(
        pytest.UsageError, match=r"say when it is to be injected, by at= or rate=; .* `await cb_faults.kill"
    ):
        async with cb_faults.kill():
            pass
    with pytest.raises(pytest.UsageError, match=r"cb_faults.kill\(\): unknown field 'limit'; valid are at, nth"):
        cb_faults.kill(limit=3)
    with pytest.raises(NeverInjectedError, match="nobody to hit: start workers first"):
        await cb_faults.terminate()


@pytest.mark.slow
def test_a_frozen_worker_ends_when_pytest_is_killed(suite: Suite, cb_postgres: str):
    suite.write(
        """
        import pathlib, time

        @pytest.mark.faults(freeze={"at": "after_claim", "seconds": 600})
        async def test_it(cb_worker_pool, cb_process_batch):
            async with cb_worker_pool(workers=1) as pool:
                await cb_process_batch(OrderProcess)
                await pool.claimed()
                pathlib.Path("pids").write_text(" ".join(map(str, pool.pids)))
                time.sleep(600)
        """
    )
    process = suite.start("--cb-postgres=" + cb_postgres)
    pids = suite.pytester.path / "pids"
    wait_until(lambda: pids.exists() and bool(pids.read_text()))
    worker = psutil.Process(int(pids.read_text()))
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)
    process.kill()
    process.wait()
    wait_until(lambda: not psutil.pid_exists(worker.pid))


@pytest.mark.slow
def test_a_crash_matrix_has_an_item_for_each_point_also_under_xdist(suite: Suite):
    suite.write(
        """
        @pytest.mark.cb_crash_matrix
        async def test_all(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, count=6, concurrency=3)
            await batch.complete()
            await batch.assert_completed()

        @pytest.mark.cb_crash_matrix(points=["after_claim"])
        def test_plain(cb_process_batch):
            assert cb_process_batch(OrderProcess, workers=1).complete().completed_count == 1
        """
    )
    result = suite.run("-n2", "-v")
    result.assert_outcomes(passed=len(POINTS) + 1)
    for point in POINTS:
        result.stdout.fnmatch_lines([f"*PASSED*test_it.py::test_all[[]{point}]*"])
    result.stdout.fnmatch_lines(["*test_it.py::test_plain[[]after_claim]*"])


@pytest.mark.slow
@pytest.mark.faults(
    kill=[{"at": "before_handler", "pct": 5}, {"rate": 2, "times": 5}],
    freeze={"rate": 1, "times": 3},
    terminate={"rate": 5, "times": 10},
    crash_postgres={"rate": 0.5, "times": 2},
    network={"latency_ms": 1},
)
async def test_all_of_it_at_once(cb_process_batch, cb_worker_pool, cb_pool):
    batch = await cb_process_batch(OrderProcess, count=200, initial_data={"slow": 0.02}, workers=0)
    async with cb_worker_pool(workers=3, concurrency=5):
        stats = await batch.wait(timeout=300)
    assert stats.completed_count + stats.in_troubleshooting_count == 200
    parked = "SELECT count(*) FROM commandbus.command_state WHERE error_code <> 'LEASE_LOST'"
    assert await one(cb_pool, parked) == 0
