"""Async tests run in every mode and loop scope of pytest-asyncio, each on its own loop."""

import pytest

from .conftest import Suite

TESTS = """
import asyncio

@pytest.fixture
def bus_of_a_fixture(cb_bus):
    return cb_bus

class TestOrders:
    @pytest.mark.parametrize("count", [1, 2], ids=["one", "two"])
    async def test_parametrized_method(self, cb_process_batch, count):
        batch = await cb_process_batch(OrderProcess, count=count)
        assert (await batch.complete()).completed_count == count

async def test_by_closure(bus_of_a_fixture):
    batch_id = await bus_of_a_fixture.create_process_batch("orders", 0)
    assert (await bus_of_a_fixture.get_batch("orders", batch_id)).status == "COMPLETED"

@pytest.mark.cb_clock
async def test_by_marker():
    await asyncio.sleep(0)
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_every_mode_and_loop_scope(suite: Suite, mode: str, scope: str):
    suite.write(TESTS)
    suite.run(f"--asyncio-mode={mode}", "-o", f"asyncio_default_test_loop_scope={scope}").assert_outcomes(passed=4)


def test_an_explicit_asyncio_marker_stands(suite: Suite):
    suite.write(
        """
        import asyncio
        import pytest_asyncio

        loops = set()

        @pytest_asyncio.fixture(loop_scope="module")
        async def stored(cb_bus):
            loops.add(asyncio.get_running_loop())
            return await cb_bus.create_process_batch("orders", 0)

        @pytest.mark.asyncio(loop_scope="module")
        @pytest.mark.parametrize("number", range(2))
        async def test_it(cb_bus, stored, number):
            loops.add(asyncio.get_running_loop())
            await cb_bus.get_batch("orders", stored)
            assert len(loops) == 1
        """
    )
    suite.run().assert_outcomes(passed=2)


def test_loop_factories_parametrize_our_tests_too(suite: Suite):
    suite.write(
        """
        async def test_it(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, count=1)
            assert (await batch.complete()).completed_count == 1
        """,
        conftest="""
        import asyncio

        def pytest_asyncio_loop_factories(config, item):
            return {"one": asyncio.new_event_loop, "two": asyncio.new_event_loop}
        """,
    )
    suite.run().assert_outcomes(passed=2)


def test_two_loops_in_one_test_are_told_apart(suite: Suite):
    suite.write(
        """
        import pytest_asyncio

        @pytest_asyncio.fixture(loop_scope="module")
        async def stored(cb_bus):
            return await cb_bus.create_process_batch("orders", 0)

        async def test_it(cb_bus, stored):
            await cb_bus.get_batch("orders", stored)
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cb_pool was first used on another event loop*same loop_scope*"])


def test_async_tests_that_do_not_use_the_plugin_are_left_alone(suite: Suite):
    suite.write("async def test_it():\n    pass\n", head="")
    result = suite.run("-W", "default")
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])
    assert result.ret != 0


def test_a_setup_that_fails_leaves_nothing_open(suite: Suite):
    suite.write(
        """
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def broken(cb_bus):
            await cb_bus.create_process_batch("orders", 1)
            raise RuntimeError("the fixture is broken")

        async def test_it(cb_bus, broken):
            pass

        async def test_skipped(cb_bus):
            await cb_bus.create_process_batch("orders", 0)
            pytest.skip("not today")

        @pytest.mark.xfail(strict=True)
        async def test_expected(cb_bus):
            await cb_bus.create_process_batch("orders", 0)
            raise RuntimeError("as expected")
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(["*RuntimeError: the fixture is broken*"])
