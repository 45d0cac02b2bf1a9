"""How processes go on, step by step: true at every commit, fenced, and failed alone."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import BusinessRuleError, ReplyOutcome
from commandbus.process import ProcessRepository, ProcessStatus
from commandbus.process.models import ProcessResponse
from tests.integration.process_kit import OrderProcess, make_manager, open_hand, process_of, steps_of
from tests.integration.worker_kit import Bench, eventually, open_bench

pytestmark = pytest.mark.asyncio

WAITS_FOR = "SELECT command_id FROM commandbus.process WHERE process_id = %s"
VISITS = "SELECT visits FROM commandbus.process WHERE process_id = %s"


async def test_a_process_is_true_at_every_commit(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id = uuid4()
    process_id = await manager.start({"order": 7}, batch_id=batch_id)
    async with open_hand(bench, manager) as hand:
        for done, step in enumerate(("Reserve", "Pay", "Ship")):
            (claimed,) = await hand.claim()
            process = await process_of(bench, process_id)
            assert (process.status, process.current_step) == (ProcessStatus.WAITING_FOR_REPLY, step)
            assert process.state["results"] == [{"n": n} for n in range(done)]
            assert (process.batch_id, process.completed_at) == (batch_id, None)
            assert await bench.execute(WAITS_FOR, process_id) == [(claimed.command_id,)]
            assert (claimed.step, claimed.visit, claimed.process_batch_id) == (step, 1, batch_id)
            assert (await steps_of(bench, process_id))[-1] == (step, 1, "IN_PROGRESS")
            await hand.settle((claimed, {"n": done}))
        assert await hand.claim() == []
    process = await process_of(bench, process_id)
    assert (process.status, process.current_step, process.error_code) == (ProcessStatus.COMPLETED, "Ship", None)
    assert process.state["results"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert await bench.execute(WAITS_FOR, process_id) == [(None,)]
    (entry,) = (await ProcessRepository(bench.pool).get_audit_trail(process_id))[2:]
    assert process.completed_at == process.updated_at == entry.completed_at


async def test_the_trail_tells_what_was_sent_what_came_back_and_when(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"order": 7})
    async with open_hand(bench, manager) as hand:
        await hand.turn({"shelf": 4}, step="Reserve")
        await hand.turn(ConnectionError("bank is down"), step="Pay")
        await hand.turn(BusinessRuleError("NO_COVER", "not enough money"), step="Pay")
        await hand.turn(None, step="Return")
    reserve, pay, give_back = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    assert (reserve.step, reserve.data, reserve.result) == ("Reserve", {"order": 7, "results": 0}, {"shelf": 4})
    assert (reserve.status, reserve.attempts, reserve.compensates) == ("COMPLETED", 1, None)
    assert (pay.status, pay.attempts, pay.result) == ("FAILED", 2, None)
    assert (pay.error_code, pay.error_message) == ("NO_COVER", "not enough money")
    assert (give_back.step, give_back.compensates, give_back.status) == ("Return", reserve.command_id, "COMPLETED")
    for entry in (reserve, pay, give_back):
        assert entry.process_id == process_id
        assert entry.received_at is not None
        assert entry.completed_at is not None
        assert entry.sent_at <= entry.received_at <= entry.completed_at
    assert reserve.completed_at == pay.sent_at  # an advance is one transaction at one time
    assert pay.completed_at == give_back.sent_at
    assert await ProcessRepository(bench.pool).get_audit_trail(uuid4()) == []


async def test_a_step_may_be_visited_again_and_each_visit_is_undone(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"path": ["Reserve", "Pay", "Reserve", "Reserve", "Ship"]})
    async with open_hand(bench, manager) as hand:
        visits = [(c.step, c.visit) for c in [await hand.turn({"n": n}) for n in range(4)]]
        assert visits == [("Reserve", 1), ("Pay", 1), ("Reserve", 2), ("Reserve", 3)]
        assert await bench.execute(VISITS, process_id) == [({"Reserve": 3, "Pay": 1, "Ship": 1},)]
        await hand.turn(BusinessRuleError("LOST", "the parcel is lost"), step="Ship")
        undone = [await hand.turn() for _ in range(4)]
    assert [(c.step, c.visit) for c in undone] == [("Return", 1), ("Return", 2), ("Refund", 1), ("Return", 3)]
    trail = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    assert [c.compensates for c in undone] == [entry.command_id for entry in reversed(trail[:4])]
    assert (await process_of(bench, process_id)).status is ProcessStatus.CANCELED


async def test_a_real_worker_takes_a_process_to_its_end(bench: Bench) -> None:
    manager = make_manager(bench)
    for step in ("Reserve", "Pay", "Ship"):

        @bench.handler(step)
        async def handle(command: Any, context: Any) -> dict[str, Any]:
            return {"step": context.step, "visit": context.visit, "ordinal": context.ordinal}

    batch_id = uuid4()
    async with bench.worker(processes=[manager]):
        await manager.start_many([{"order": n} for n in range(20)], batch_id)

        async def all_completed() -> bool | None:
            done = await ProcessRepository(bench.pool).of_batch(batch_id, ProcessStatus.COMPLETED)
            return len(done) == 20 or None

        await eventually(all_completed, "20 completed processes")
    for process in await ProcessRepository(bench.pool).of_batch(batch_id):
        assert process.state["results"] == [
            {"step": step, "visit": 1, "ordinal": process.ordinal} for step in ("Reserve", "Pay", "Ship")
        ]


class Fragile(OrderProcess):
    """Breaks for order 1, in the method that `breaks` names, at its second step."""

    breaks = ""

    def _break(self, method: str, state: Any) -> None:
        if method == self.breaks and state.order == 1 and state.results:
            raise ZeroDivisionError(f"in {method}")

    def update_state(self, state: Any, step: str, response: ProcessResponse) -> None:
        super().update_state(state, step, response)
        self._break("update_state", state)

    def get_next_step(self, current_step: str, response: ProcessResponse, state: Any) -> str | None:
        self._break("get_next_step", state)
        return super().get_next_step(current_step, response, state)

    def build_command(self, step: str, state: Any) -> Any:
        self._break("build_command", state)
        return super().build_command(step, state)


@pytest.mark.parametrize("method", ["update_state", "get_next_step", "build_command"])
async def test_a_decision_that_raises_fails_its_process_alone(bench: Bench, method: str) -> None:
    manager = make_manager(bench, Fragile, breaks=method)
    batch_id = uuid4()
    await manager.start_many([{"order": n} for n in range(3)], batch_id)
    async with open_hand(bench, manager) as hand:
        claims = await hand.claim(3)
        assert await hand.settle(*[(claimed, {}) for claimed in claims]) == set()
    zero, one, two = await ProcessRepository(bench.pool).of_batch(batch_id)
    assert [p.current_step for p in (zero, one, two)] == ["Pay", "Reserve", "Pay"]
    assert (one.status, one.error_code) == (ProcessStatus.FAILED, "PROCESS_DECISION_FAILED")
    assert one.error_message == f"{method} raised ZeroDivisionError: in {method}"
    assert one.completed_at is not None
    assert one.state["results"] == ([] if method == "update_state" else [{}])
    assert await steps_of(bench, one.process_id) == [("Reserve", 1, "COMPLETED")]


async def test_a_late_outcome_advances_nothing_and_runs_no_hook(bench: Bench) -> None:
    hooked: list[UUID] = []

    async def record(self: Any, items: Any, conn: Any) -> None:
        hooked.extend(item.process.process_id for item in items)

    manager = make_manager(bench, before_send_commands=record)
    lost, kept = await manager.start({"order": 1}), await manager.start({"order": 2})
    hooked.clear()
    async with open_hand(bench, manager) as zombie, open_hand(bench, manager) as heir:
        (claim_lost,) = await zombie.claim(lease=30)
        await bench.skip(31)
        (taken,) = await heir.claim()
        assert (taken.command_id, taken.epoch) == (claim_lost.command_id, 2)
        (claim_kept,) = await zombie.claim()
        before = await process_of(bench, lost)
        assert await zombie.settle((claim_lost, {"by": "zombie"}), (claim_kept, {})) == {claim_lost.seq}
        assert await process_of(bench, lost) == before
        assert (await process_of(bench, kept)).current_step == "Pay"
        assert hooked == [kept]
        assert await heir.settle((taken, {"by": "heir"})) == set()
    assert (await process_of(bench, lost)).state["results"] == [{"by": "heir"}]
    assert (await bench.trail(claim_lost.command_id))[-2:] == ["LATE_OUTCOME_DROPPED", "COMPLETED"]


async def test_what_a_hook_wrote_for_a_settle_that_is_not_stored_is_gone(bench: Bench) -> None:
    await bench.execute("CREATE TABLE IF NOT EXISTS public.written (command_id uuid)")

    async def write(self: Any, items: Any, conn: Any) -> None:
        for item in items:
            await conn.execute("INSERT INTO public.written VALUES (%s)", (item.command_id,))

    manager = make_manager(bench, before_send_commands=write)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (claimed,) = await hand.claim()
        async with hand.conn.transaction(force_rollback=True):
            assert await hand.settle((claimed, {})) == set()
            assert (await (await hand.conn.execute(WAITS_FOR, (process_id,))).fetchone()) != (claimed.command_id,)
        assert await bench.execute(WAITS_FOR, process_id) == [(claimed.command_id,)]
        assert await hand.settle((claimed, {})) == set()
    sent = await bench.execute("SELECT command_id FROM commandbus.command WHERE process_id = %s", process_id)
    written = await bench.execute(
        "SELECT command_id FROM public.written WHERE command_id = ANY(%s) OR NOT EXISTS"
        " (SELECT FROM commandbus.command c WHERE c.command_id = written.command_id)",
        [row[0] for row in sent],
    )
    assert sorted(written) == sorted(sent)


async def test_nobody_can_take_a_claim_while_the_hooks_of_its_settle_run(bench: Bench) -> None:
    """The lease runs out while the hook runs: a claim by another worker passes by, the settle goes through."""
    attempts: list[Any] = []

    async def be_slow(self: Any, items: Any, conn: Any) -> None:
        if items[0].step == "Pay":
            await bench.skip(60)
            attempts.append(await other.claim())

    manager = make_manager(bench, before_send_commands=be_slow)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand, open_hand(bench, manager) as other:
        (claimed,) = await hand.claim(lease=30)
        assert await hand.settle((claimed, {})) == set()
        assert attempts == [[]]
        assert (await other.claim())[0].step == "Pay"
    assert await steps_of(bench, process_id) == [("Reserve", 1, "COMPLETED"), ("Pay", 1, "IN_PROGRESS")]


async def test_a_settle_whose_answer_was_lost_can_be_sent_again(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (claimed,) = await hand.claim()
        assert await hand.settle((claimed, {"n": 1})) == set()
        once = await process_of(bench, process_id)
        assert await hand.settle((claimed, {"n": 1})) == set()
    assert await process_of(bench, process_id) == once
    assert await steps_of(bench, process_id) == [("Reserve", 1, "COMPLETED"), ("Pay", 1, "PENDING")]
    assert await bench.trail(claimed.command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_a_step_may_be_carried_out_in_another_domain(bench: Bench) -> None:
    def elsewhere(self: Any, step: str, state: Any) -> Any:
        command = OrderProcess.build_command(self, step, state)
        return command if step != "Pay" else type(command)("Bill", command.data, domain=other.domain)

    manager = make_manager(bench, build_command=elsewhere)
    process_id = await manager.start({})
    async with (
        open_bench(bench.dsn) as other,
        open_hand(bench, manager) as orders,
        open_hand(other, manager) as finance,
    ):
        await orders.turn({}, step="Reserve")
        assert await orders.claim() == []
        bill = await finance.turn({"paid": True}, step="Pay")
        assert bill.command_type == "Bill"
        await orders.turn({}, step="Ship")
    process = await process_of(bench, process_id)
    assert (process.status, process.state["results"][1]) == (ProcessStatus.COMPLETED, {"paid": True})
    assert process.domain == bench.domain


async def test_a_reply_carries_the_result_as_it_was_stored(bench: Bench) -> None:
    seen: list[ProcessResponse] = []

    def look(self: Any, state: Any, step: str, response: ProcessResponse) -> None:
        seen.append(response)
        state.results.append(response.result)

    manager = make_manager(bench, update_state=look)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        claimed = await hand.turn({"when": {1}, "text": "a\0b", "long": 10**5000}, step="Reserve")
    stored = (await bench.bus.get_command(claimed.command_id)).result
    assert seen == [ProcessResponse(claimed.command_id, ReplyOutcome.SUCCESS, stored)]
    assert (await process_of(bench, process_id)).state["results"] == [stored]
