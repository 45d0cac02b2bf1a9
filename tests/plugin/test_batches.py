"""The handles of batches: waiting, what is stuck and why, and what is refused."""

import asyncio

import pytest

from commandbus.process import ProcessStatus
from pytest_commandbus.batch_handle import BatchParkedError, BatchTimeoutError
from pytest_commandbus.chaos import CommandBehavior, RollKey, roll
from pytest_commandbus.run import RUN

from .conftest import Suite
from .shop import OrderProcess, StrangerProcess


async def test_initial_data_is_a_dict_or_a_function_of_the_ordinal(cb_process_batch):
    same = await cb_process_batch(OrderProcess, count=2, initial_data={"order": 7})
    each = await cb_process_batch(OrderProcess, count=3, initial_data=lambda i: {"order": i * i})
    await same.complete()
    await each.complete()
    assert [p.state["order"] for p in await same.processes()] == [7, 7]
    assert [p.state["order"] for p in await each.processes(ProcessStatus.COMPLETED)] == [0, 1, 4]
    assert await each.processes(ProcessStatus.FAILED) == []
    assert each.stats.completed_count == 3


async def test_an_empty_batch_is_complete_at_once(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=0)
    assert (await batch.complete(timeout=1)).status == "COMPLETED"


async def test_a_timeout_says_what_is_stuck_where_and_why(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=4, workers=0)
    with pytest.raises(BatchTimeoutError) as raised:
        await batch.wait(timeout=0.05)
    message = str(raised.value)
    assert "did not end within 0.05 s: IN_PROGRESS: 4 in all, 0 completed" in message
    assert (
        "4 x Order WAITING_FOR_REPLY in step ReserveStock: queued, no worker works for domain 'orders' (such as "
        in message
    )
    assert "0 of 0 workers are alive" in message


def test_a_timeout_tells_of_retries_that_wait(suite: Suite):
    suite.write(
        """
        import asyncio

        @app.handler("mail", "Flaky")
        async def flaky(command, context):
            raise OSError("no route to host")

        async def test_it(cb_command_batch, cb_bus):
            batch = await cb_command_batch("mail", "Flaky", count=3)
            ids = await batch.command_ids()
            while not all([(await cb_bus.get_command(i)).due_at for i in ids]):
                await asyncio.sleep(0.01)
            await batch.wait(timeout=0)
        """
    )
    result = suite.run()
    result.stdout.fnmatch_lines(
        ["*3 x Flaky PENDING: retry due in * s after attempt 1 of 3 failed: * no route to host *"]
    )


async def test_a_parked_member_is_an_error_of_complete(cb_command_batch):
    batch = await cb_command_batch("mail", "SendMail", count=2, data=lambda i: {"to": ["nobody", "me"][i]})
    with pytest.raises(BatchParkedError, match="parked: NO_SUCH_ADDRESS: no mail for nobody"):
        await batch.complete()
    assert batch.stats.in_troubleshooting_count == 1


WAITS_FOR_A_LOCK = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'e2e.test_batch'::regclass"


@pytest.mark.chaos(SendMail={"fail_permanent_pct": 50})
async def test_workers_that_run_already_see_no_command_before_the_number_of_its_batch(
    cb_command_batch, cb_worker_pool, cb_pool, pytestconfig
):
    async with cb_worker_pool():
        async with cb_pool.connection() as holder, cb_pool.connection() as watcher:
            await holder.execute("LOCK TABLE e2e.test_batch IN SHARE MODE")  # its readers may go on
            creating = asyncio.create_task(cb_command_batch("mail", "SendMail", count=20, data={"to": "me"}))
            waiting = (0,)
            async with asyncio.timeout(20):
                while waiting == (0,):
                    await asyncio.sleep(0.01)
                    waiting = await (await watcher.execute(WAITS_FOR_A_LOCK)).fetchone()
            assert await (await watcher.execute("SELECT count(*) FROM commandbus.command")).fetchone() == (0,)
        batch = await creating
        await batch.wait()
    seed, behavior = pytestconfig.stash[RUN].seed, CommandBehavior(fail_permanent_pct=50)
    rolled = [roll(seed, RollKey(1, i, "SendMail", 1, 0), behavior).outcome for i in range(20)]
    parked = [command.status == "IN_TROUBLESHOOTING_QUEUE" for command in await batch.commands()]
    assert parked == [outcome == "permanent" for outcome in rolled]


async def test_a_manager_that_the_app_lacks_is_named(cb_process_batch):
    with pytest.raises(pytest.UsageError, match=r"does not know the process manager StrangerProcess \(it knows: Order"):
        await cb_process_batch(StrangerProcess)


async def test_wrong_numbers_are_refused(cb_process_batch, cb_worker_pool):
    with pytest.raises(pytest.UsageError, match="count=-1 must be 0 or more"):
        await cb_process_batch(OrderProcess, count=-1)
    with pytest.raises(pytest.UsageError, match="workers=0 and concurrency=1 must both be at least 1"):
        cb_worker_pool(workers=0, concurrency=1)
    with pytest.raises(pytest.UsageError, match="batch_size cannot be handed to worker processes, only poll_interval"):
        cb_worker_pool(processes=True, batch_size=3)


async def test_a_failing_assertion_shows_the_counts(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=2)
    assert repr(await batch.complete()) == (
        "BatchStats(COMPLETED: 2 in all, 2 completed, 0 failed, 0 canceled, 0 in troubleshooting, 0 open)"
    )
