"""How soon a command starts at an idle worker: what the worker leaves for later, and what it does not do at all."""

from itertools import pairwise
from typing import Any

import pytest

from commandbus import Command, CommandStatus, HandlerContext
from commandbus.process import ProcessReplyRouter
from commandbus.repositories import queue
from tests.integration.process_kit import make_manager
from tests.integration.worker_kit import NEVER, Bench, eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> list[str]:
    """What the workers of the test do, in order."""
    done: list[str] = []

    def told(what: str, function: Any) -> Any:
        async def tell(*args: Any, **kwargs: Any) -> Any:
            done.append(what)
            return await function(*args, **kwargs)

        return tell

    async def claim(*args: Any, _claim: Any = queue.claim, **kwargs: Any) -> Any:
        claims = await _claim(*args, **kwargs)
        done.extend("claims" for _ in claims)
        return claims

    monkeypatch.setattr(queue, "claim", claim)
    monkeypatch.setattr(queue, "next_due", told("asks for the next retry", queue.next_due))
    monkeypatch.setattr(ProcessReplyRouter, "route", told("looks for replies", ProcessReplyRouter.route))

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None:
        done.append("handles")

    return done


async def test_a_command_starts_before_its_worker_asks_for_the_next_retry(bench: Bench, done: list[str]) -> None:
    async with bench.worker(poll_interval=NEVER):
        for _ in range(5):
            await bench.until(await bench.send("Ping"), CommandStatus.COMPLETED)
    assert done.count("claims") == 5
    assert "asks for the next retry" in done
    assert [after for before, after in pairwise(done) if before == "claims"] == 5 * ["handles"]


async def test_a_command_is_no_occasion_to_look_for_replies(bench: Bench, done: list[str]) -> None:
    async with bench.worker(poll_interval=NEVER, processes=[make_manager(bench)]):
        await eventually(lambda: _is("looks for replies", done), "the look of the start")
        await bench.until(await bench.send("Ping"), CommandStatus.COMPLETED)
        done.clear()
        await bench.until(await bench.send("Ping"), CommandStatus.COMPLETED)
    assert "handles" in done
    assert "looks for replies" not in done


async def _is(what: str, done: list[str]) -> bool | None:
    return what in done or None
