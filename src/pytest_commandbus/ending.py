"""The end of a test that used the bus: workers stopped, markers and audit checked, a failure explained."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from . import audit, failure_report, markers

if TYPE_CHECKING:
    from .runtime import Runtime


async def end(runtime: "Runtime", workers: AsyncExitStack, error: BaseException | None) -> None:
    """Stop the workers that `workers` holds, check, explain, close the pool. Raises the first problem found here."""
    problem: BaseException | None = None
    try:
        if runtime.faults is not None:
            await runtime.faults.recover(wait=error is None)
        await workers.aclose()
        if error is None:
            await check(runtime)
    except BaseException as raised:
        problem = raised
    try:
        if _is_failure(error) and problem is not None:
            runtime.sections.append(("commandbus: at the end of the test", f"{type(problem).__name__}: {problem}"))
        if _is_failure(error) or problem is not None:
            runtime.sections.extend(await failure_report.collect(runtime))
    finally:
        await runtime.pool.end()
        if runtime.faults is not None:
            runtime.faults.close()
    if problem is not None and not _is_failure(error):
        raise problem


async def check(runtime: "Runtime") -> None:
    """Check what must hold at the end of a test that passed so far."""
    await _check_rules_matched(runtime)
    _check_faults_injected(runtime)
    await audit.check(runtime)


def _check_faults_injected(runtime: "Runtime") -> None:
    if runtime.faults is not None:
        runtime.faults.check_injected()
    elif markers.has_faults(runtime.item):
        pytest.fail(
            "the faults of this test were never injected: it runs no workers. Remove the marker, or run workers by "
            "cb_process_batch, cb_command_batch or cb_worker_pool",
            pytrace=False,
        )


async def _check_rules_matched(runtime: "Runtime") -> None:
    unmatched = await runtime.unmatched_rules()
    if unmatched:
        pytest.fail(
            f"@pytest.mark.chaos({', '.join(unmatched)}) matched nothing that ran: no worker of this test took such a "
            "command. Remove it, or let the test run that step",
            pytrace=False,
        )


def _is_failure(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, pytest.skip.Exception | pytest.xfail.Exception)
