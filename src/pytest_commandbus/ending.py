"""The end of a test that used the bus: workers stopped, markers and audit checked, a failure explained."""

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from . import audit, failure_report, markers

if TYPE_CHECKING:
    from .runtime import Runtime


async def end(runtime: "Runtime", workers: AsyncExitStack, error: BaseException | None) -> None:
    """Stop the workers that `workers` holds, check, explain, close the pool. Raises the first problem found here."""
    problem: BaseException | None = None
    runtime.forget_explained(error)
    if error is not None and is_failure(error):
        await runtime.explain(error)
    try:
        if runtime.faults is not None:
            await runtime.faults.recover(wait=error is None)
        await workers.aclose()
        if error is None:
            await check(runtime)
    except BaseException as raised:
        problem = raised
    try:
        if is_failure(error) and problem is not None:
            runtime.sections.append(("commandbus: at the end of the test", f"{type(problem).__name__}: {problem}"))
        if not is_failure(error) and problem is not None:
            await runtime.explain(problem)
        if is_failure(error) or problem is not None:
            runtime.sections.extend(failure_report.logs(runtime))
    finally:
        await runtime.pool.end()
        if runtime.faults is not None:
            runtime.faults.close()
    if problem is not None and not is_failure(error):
        raise problem


async def check(runtime: "Runtime") -> None:
    """Check what must hold at the end of a test that passed so far."""
    await _check_rules_matched(runtime)
    _check_faults_injected(runtime)
    await audit.check(runtime)
    if runtime.objections:
        pytest.fail("\n".join(runtime.objections), pytrace=False)


def _check_faults_injected(runtime: "Runtime") -> None:
    if runtime.faults is not None:
        if not runtime.is_example:  # one more example may give no occasion
            runtime.faults.check_injected()
    elif markers.has_faults(runtime.item) and not runtime.is_example:
        pytest.fail(
            "the faults of this test were never injected: it runs no workers. Remove the marker, or run workers by "
            "cb_process_batch, cb_command_batch or cb_worker_pool",
            pytrace=False,
        )


async def _check_rules_matched(runtime: "Runtime") -> None:
    unmatched = await runtime.unmatched_rules()
    if runtime.is_example:
        runtime.idle_markers = unmatched
    else:
        refuse_idle(unmatched)


def refuse_idle(unmatched: Sequence[str]) -> None:
    """Fail the test for what its chaos markers say in vain."""
    if unmatched:
        pytest.fail(
            f"@pytest.mark.chaos({', '.join(unmatched)}) matched nothing that ran: no worker of this test took such a "
            "command. Remove it, or let the test run that step",
            pytrace=False,
        )


def is_failure(error: BaseException | None) -> bool:
    """Tell whether what ended the body of a test is a failure: not a skip, nor an example that Hypothesis gave up."""
    if error is None or isinstance(error, pytest.skip.Exception | pytest.xfail.Exception):
        return False
    hypothesis = sys.modules.get("hypothesis.errors")
    return hypothesis is None or not isinstance(error, hypothesis.StopTest | hypothesis.UnsatisfiedAssumption)
