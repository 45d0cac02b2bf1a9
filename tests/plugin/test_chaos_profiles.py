"""Chaos profiles: from pyproject.toml and the fixture, by marker and over the whole run."""

import json

import pytest

from .conftest import Suite
from .profiles_kit import BROKEN, ROUGH, with_profiles


def test_a_marker_names_a_profile(suite: Suite):
    with_profiles(suite, BROKEN)
    suite.write(
        """
        @pytest.mark.chaos("broken-payment")
        async def test_it(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, count=5)
            assert (await batch.wait()).in_troubleshooting_count == 5
            assert await batch.observed() == batch.predict()

        @pytest.mark.chaos("broken-payment")
        def test_plain(cb_process_batch):
            assert cb_process_batch(OrderProcess, count=5).wait().in_troubleshooting_count == 5
        """
    )
    suite.run().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "distribution", [(), pytest.param(("-n2",), marks=pytest.mark.slow)], ids=["in-process", "-n2"]
)
def test_an_option_puts_a_profile_over_the_run_as_the_oracle_foretells(suite: Suite, distribution: tuple[str, ...]):
    with_profiles(suite, ROUGH)
    suite.write(
        """
        import json, pathlib

        @pytest.mark.parametrize("number", range(3))
        async def test_it(cb_process_batch, number):
            foretold = cb_process_batch.predict(OrderProcess, count=40)
            batch = await cb_process_batch(OrderProcess, count=40)
            await batch.wait()
            assert await batch.observed() == batch.predict() == foretold
            seen = [[p.ordinal, p.outcome, p.failing_step, dict(p.failures)] for p in foretold.processes]
            pathlib.Path(f"seen-{number}.json").write_text(json.dumps(seen))

        async def test_without_an_app(cb_bus, cb_clock):
            await cb_bus.create_process_batch("orders", 0)
        """
    )
    suite.run("--cb-chaos=rough", "--cb-seed=42", *distribution).assert_outcomes(passed=4)
    seen = [json.loads((suite.pytester.path / f"seen-{number}.json").read_text()) for number in range(3)]
    assert seen[0] == seen[1] == seen[2]
    ends = [(status, step) for _, status, step, _ in seen[0]]
    assert {step for _, step in ends} == {None, "ReserveStock", "TakePayment", "ShipParcel"}
    assert (sum(len(f) for *_, f in seen[0]), ends.count(("COMPLETED", None))) == (37, 14)


def test_worker_processes_obey_the_profile_of_the_run(suite: Suite):
    with_profiles(suite, ROUGH)
    suite.write(
        """
        async def test_it(cb_process_batch, cb_clock):
            batch = await cb_process_batch(OrderProcess, count=40, processes=True)
            await batch.wait()
            assert await batch.observed() == batch.predict()
            assert len(batch.predict().outcomes) == 3
            assert cb_clock.skipped > 1
        """
    )
    suite.run("--cb-chaos=rough", "--cb-seed=42").assert_outcomes(passed=1)


@pytest.mark.slow
def test_the_shards_of_a_load_test_obey_the_profile_of_the_run(suite: Suite):
    with_profiles(suite, ROUGH)
    suite.write(
        """
        @pytest.mark.load
        async def test_it(cb_load):
            result = await cb_load(OrderProcess, processes=False)
            assert result.mismatches == []
            assert len(result.outcomes) == 3
            assert result.environment["chaos_profile"] == "rough"
        """
    )
    suite.run("--cb-chaos=rough", "--cb-seed=42", "--cb-load=60", "-n2").assert_outcomes(passed=2)


def test_run_module_class_and_function_merge_and_the_nearest_wins_by_step(suite: Suite):
    with_profiles(
        suite,
        BROKEN
        + """
        [tool.commandbus.chaos.run]
        reserve = { fail_permanent_pct = 100 }
        TAKE_PAYMENT = { fail_permanent_pct = 100 }
        return_stock = { fail_transient_times = 1 }
        [tool.commandbus.chaos.module]
        RESERVE = { fail_transient_times = 2 }
        ship = { fail_permanent_pct = 100 }
        [tool.commandbus.chaos.class]
        shipparcel = { fail_business_rule_pct = 100 }
        """,
    )
    suite.write(
        """
        pytestmark = pytest.mark.chaos("module")

        @pytest.mark.chaos("broken-payment", "class")
        class TestOrders:
            @pytest.mark.chaos(pay={"fail_transient_times": 1})
            async def test_near(self, cb_process_batch):
                batch = await cb_process_batch(OrderProcess, count=2)
                await batch.complete()
                first = (await batch.observed()).processes[0]
                assert (first.outcome, first.failing_step) == ("CANCELED", "ShipParcel")
                assert first.failures == {"ReserveStock": 2, "TakePayment": 1, "ShipParcel": 1, "ReturnStock": 1}
                assert await batch.observed() == batch.predict()

            @pytest.mark.chaos("broken-payment", pay={"error_code": "NEAREST", "fail_business_rule_pct": 100})
            async def test_own_steps_lie_over_the_profiles_of_the_same_marker(self, cb_process_batch):
                batch = await cb_process_batch(OrderProcess)
                await batch.complete()
                assert (await batch.processes())[0].error_code == "NEAREST"
                pytest.skip("ship cannot run here")
        """
    )
    suite.run("--cb-chaos=run").assert_outcomes(passed=1, skipped=1)


def test_a_fixture_brings_profiles_and_replaces_those_of_the_same_name(suite: Suite):
    with_profiles(suite, BROKEN + ROUGH)
    suite.write(
        """
        @pytest.fixture
        def cb_chaos_profiles():
            return {"rough": {"ship": {"fail_permanent_pct": 100}}, "late": {"ship": {"timeout_pct": 100}}}

        @pytest.mark.parametrize("code, step", [
            pytest.param("CHAOS_PERMANENT", "ShipParcel", marks=pytest.mark.chaos("rough")),
            pytest.param("TIMEOUT", "ShipParcel", marks=pytest.mark.chaos("late")),
            pytest.param("CHAOS_PERMANENT", "TakePayment", marks=pytest.mark.chaos("broken-payment")),
        ])
        async def test_it(cb_process_batch, code, step):
            batch = await cb_process_batch(OrderProcess)
            await batch.wait()
            (process,) = await batch.processes()
            last = (await batch.timeline(process.process_id))[-1]
            assert (last.event, last.code, last.step) == ("MOVED_TO_TSQ", code, step)
        """
    )
    suite.run().assert_outcomes(passed=3)


def test_the_next_step_sees_response_data(suite: Suite):
    with_profiles(suite, "[tool.commandbus.chaos.other-money]\npay = { response_data = { paid = 7, in = 'EUR' } }\n")
    suite.write(
        """
        from dataclasses import dataclass, field
        from commandbus import App
        from commandbus.process import ProcessCommand
        from shop import OrderState

        @dataclass
        class PaidState(OrderState):
            paid: dict = field(default_factory=dict)

        class PaidProcess(OrderProcess):
            state_class = PaidState

            def update_state(self, state, step, response):
                if step == "TakePayment":
                    state.paid = dict(response.result)

            def build_command(self, step, state):
                return ProcessCommand(str(step), {"order": state.order, "slow": 0, "paid": state.paid})

        @pytest.fixture
        def cb_app():
            made = App()
            made.add_process(PaidProcess)
            for known in app.registry:
                if known.command_type != "ShipParcel":
                    made.registry.add(known.domain, known.command_type, known.function)

            @made.handler("orders", "ShipParcel")
            async def ship(command, context):
                shipped.append(command.data["paid"])

            return made

        shipped = []

        async def test_it(cb_process_batch):
            batch = await cb_process_batch(PaidProcess, initial_data={"order": 3})
            await batch.complete()
            assert shipped == [{"paid": 7, "in": "EUR"}]

        async def test_it_undone(cb_process_batch):
            shipped.clear()
        """
    )
    suite.run("--cb-chaos=other-money").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "given", [pytest.param(("--cb-chaos=rough", "-n2"), marks=pytest.mark.slow), ("--cb-chaos", "rough")], ids=" ".join
)
def test_the_line_that_runs_a_failure_again_names_the_profile(suite: Suite, given: tuple[str, ...]):
    with_profiles(suite, ROUGH)
    suite.write(
        """
        async def test_it(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, count=9)
            await batch.wait()
            print("ENDED", [(p.outcome.value, p.failing_step) for p in (await batch.observed()).processes])
            assert (await batch.observed()).retries == -1
        """
    )
    first = suite.run_process(*given)
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(["seed *, chaos profile rough, run again with:"])
    (line,) = [line for line in first.outlines if line.startswith("python -m pytest ")]
    assert line.count("cb-chaos") == 1
    assert line.endswith(" --cb-chaos=rough")
    second = suite.shell(line)
    second.assert_outcomes(failed=1)
    ended = [[line for line in result.outlines if line.startswith("ENDED")] for result in (first, second)]
    assert ended[0] == ended[1]
    assert len(ended[0]) == 1


def test_a_profile_from_the_configuration_stands_in_the_line_too(suite: Suite, monkeypatch: pytest.MonkeyPatch):
    with_profiles(suite, BROKEN)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--cb-chaos=broken-payment")
    suite.write("def test_it(cb_database):\n    assert 0\n")
    suite.run("--cb-seed=3").stdout.fnmatch_lines(["*test_it.py::test_it --cb-seed=3 --cb-chaos=broken-payment"])


def test_a_profile_of_a_marker_fails_a_test_in_which_no_step_of_it_ran(suite: Suite):
    with_profiles(
        suite,
        BROKEN + "[tool.commandbus.chaos.mail]\nsendmail = {}\n[tool.commandbus.chaos.two]\nsendmail = {}\nship = {}\n",
    )
    suite.write(
        """
        @pytest.mark.chaos("two")
        async def test_partly(cb_process_batch):
            await (await cb_process_batch(OrderProcess)).complete()

        @pytest.mark.chaos("mail", "broken-payment")
        async def test_in_vain(cb_process_batch):
            await (await cb_process_batch(OrderProcess)).wait()

        async def test_over_the_run(cb_process_batch):
            await (await cb_process_batch(OrderProcess)).complete()
        """
    )
    result = suite.run("--cb-chaos=mail")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(['*@pytest.mark.chaos("mail") matched nothing that ran*'])
