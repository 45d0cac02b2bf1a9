"""What a failed test shows of each kind of trouble: why it is stuck, where counts differ; once, and with xdist too."""

import re

import pytest

from .conftest import Suite

WAYS = pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["without xdist", "with xdist"])

STUCK = """
    import asyncio
    from shop import Step

    async def test_no_worker(cb_process_batch):
        batch = await cb_process_batch(OrderProcess, workers=0)
        await batch.wait(timeout=0.1)

    async def test_at_work(cb_process_batch, cb_worker_pool, monkeypatch):
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def dawdle(command, context):
            begun.set()
            await go_on.wait()

        registered = app.registry.get("orders", "ReserveStock")
        monkeypatch.setitem(app.registry._handlers, ("orders", "ReserveStock"), type(registered)(
            "orders", "ReserveStock", dawdle, True, "dawdle"))
        async with cb_worker_pool() as workers:
            stop = workers.stop

            async def let_go_and_stop():
                go_on.set()
                await stop()

            workers.stop = let_go_and_stop
            batch = await cb_process_batch(OrderProcess, count=5)
            await begun.wait()
            await batch.wait(timeout=0.1)

    @pytest.mark.chaos(ReserveStock={"fail_transient_times": 1})
    @pytest.mark.load(real_time=True)
    async def test_waits_for_its_retry(cb_process_batch):
        batch = await cb_process_batch(OrderProcess)
        for _ in range(1000):
            if (await batch.timeline((await batch.processes())[0].process_id))[-1].event == "RETRY_SCHEDULED":
                break
            await asyncio.sleep(0.02)
        await batch.wait(timeout=0.1)

    async def test_parked_command(cb_command_batch):
        batch = await cb_command_batch("mail", "SendMail", data=lambda i: {"to": ["ann", "nobody"][i]}, count=2)
        await batch.complete()
"""


@WAYS
def test_why_it_is_stuck_stands_over_its_timeline(suite: Suite, arguments: tuple[str, ...]):
    suite.write(STUCK)
    result = suite.run("--tb=short", "--cb-load=1", "--junitxml=junit.xml", "--cb-seed=3", *arguments)
    result.assert_outcomes(failed=4)
    text = result.stdout.str()
    assert re.findall(r"^stuck: (.*)$", text, re.MULTILINE).count("queued, no worker works for domain 'orders'") == 1
    assert len(re.findall(r"^stuck: being handled, leased for another \d+ s$", text, re.MULTILINE)) == 3
    assert re.search(
        r"^stuck: retry due in \d+ s after attempt 1 of 3 failed: CHAOS_TRANSIENT: chaos: injected .*$", text, re.M
    )
    assert "command 1 of its batch: IN_TROUBLESHOOTING_QUEUE, NO_SUCH_ADDRESS: no mail for nobody" in text
    assert re.search(r"SendMail  MOVED_TO_TSQ  attempt 1  worker \d  real NO_SUCH_ADDRESS: no mail for nobody", text)
    assert len(re.findall(r"- commandbus: batches -", text)) == 4
    assert "batch_handle.py" not in text, "the tracebacks end where the tests called"
    assert "FAILED test_it.py::test_no_worker - BatchTimeoutError: the batch" in text
    junit = (suite.pytester.path / "junit.xml").read_text(encoding="utf-8")
    assert junit.count('<property name="cb_seed" value="3" />') == 4
    assert len(re.findall(r'<property name="cb_run_again" value="[^"]* --cb-seed=3" />', junit)) == 4


DIFFERENT = """
    from commandbus.process import ProcessStatus
    from pytest_commandbus.oracle import Prediction, ProcessPrediction

    async def test_counts(cb_process_batch):
        batch = await cb_process_batch(OrderProcess, count=3)
        await batch.complete()
        assert batch.stats == {"completed_count": 3, "canceled_count": 0}
        assert batch.stats != {"completed_count": 2}
        assert batch.stats == {"completed_count": 2, "canceled_count": 0}

    async def test_misspelt(cb_process_batch):
        batch = await cb_process_batch(OrderProcess, workers=0)
        assert batch.stats == {"complete_count": 0}

    @pytest.mark.chaos(pay={"fail_permanent_pct": 100})
    async def test_predicted(cb_process_batch):
        batch = await cb_process_batch(OrderProcess, count=7)
        await batch.wait()
        assert await batch.observed() == batch.predict()
        assert await batch.observed() == Prediction.of(ProcessPrediction(i, ProcessStatus.COMPLETED) for i in range(7))

    async def test_others(cb_process_batch):
        batch = await cb_process_batch(OrderProcess, workers=0)
        assert batch.stats == await batch.refresh()
        assert batch.stats == 7
"""


def test_a_comparison_shows_what_differs_alone(suite: Suite):
    suite.write(DIFFERENT)
    result = suite.run("--tb=short")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "E * the counts of the batch differ",
            "E     completed_count: 3, expected 2",
            "E     in full: BatchStats(COMPLETED: 3 in all, 3 completed, *",
            "E * the counts of a batch: there is no 'complete_count'",
            "E     there are total_count, completed_count, failed_count, canceled_count, in_troubleshooting_count",
            "E * 7 of 7 processes differ",
            "E     process 0: WAITING_FOR_TSQ at TakePayment (failures: 1 x TakePayment) == COMPLETED",
            "E     process 4: *",
            "E     and 2 more",
            "E     COMPLETED in all: 0 == 7",
            "E     WAITING_FOR_TSQ in all: 7 == 0",
            "E * assert BatchStats(*) == 7",
        ]
    )
    assert "canceled_count: 0" not in result.stdout.str()


@WAYS
def test_a_fixture_that_fails_shows_the_batches_too(suite: Suite, arguments: tuple[str, ...]):
    suite.write(
        """
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def orders(cb_process_batch):
            await cb_process_batch(OrderProcess, count=2, workers=0)
            raise RuntimeError("the fixture's own")

        @pytest.fixture
        def plain_orders(cb_process_batch):
            cb_process_batch(OrderProcess, count=2, workers=0)
            raise RuntimeError("the fixture's own")

        async def test_async(orders):
            pass

        def test_plain(plain_orders):
            pass
        """
    )
    result = suite.run(*arguments)
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert text.count("- commandbus: batches -") == 2
    assert text.count("stuck: queued, no worker works for domain 'orders'") == 4


@WAYS
def test_what_a_dead_worker_said_is_shown_once(suite: Suite, arguments: tuple[str, ...]):
    suite.write(
        """
        async def test_it(cb_command_batch):
            batch = await cb_command_batch("mail", "SendMail", data={"to": "crash"}, processes=True, workers=1)
            await batch.wait()
        """
    )
    result = suite.run("--tb=short", *arguments)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    report, _, _ = text.partition("short test summary")  # which is not shortened where CI is set
    assert report.count("the mail server is on fire") == 1
    assert "FAILED test_it.py::test_it - WorkerDiedError: worker process" in text
    assert "command 0 of its batch: IN_PROGRESS" in text


def test_only_the_last_lines_of_a_long_log_are_shown(suite: Suite):
    suite.write(
        """
        async def test_it(cb_command_batch):
            batch = await cb_command_batch("talk", "Talk", processes=True, workers=1)
            await batch.complete()
            assert False
        """,
        talk="""
        from commandbus import App

        app = App()

        @app.handler("talk", "Talk")
        async def talk(command, context):
            for number in range(1000):
                print("line", number, flush=True)
        """,
        head="import pytest\nfrom talk import app\n\n@pytest.fixture\ndef cb_app():\n    return app\n",
    )
    result = suite.run()
    shown = [line for line in result.outlines if line.startswith("line ")]
    assert shown[-1] == "line 999"
    assert 100 < len(shown) < 400
    left_out = next(line for line in result.outlines if line.endswith("earlier lines left out)"))
    first = int(shown[0].split()[1])
    assert first <= int(left_out[1:].split()[0]) <= first + 5  # what the worker itself said comes first
