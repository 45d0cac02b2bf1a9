"""What the fixture cb_chaos gives a test: chaos that is only known while it runs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime import Runtime


class ChaosHandle:
    """Says what chaos does, in the words of the marker: `cb_chaos("flaky-bank", ship={"fail_permanent_pct": 100})`."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    def __call__(self, *profiles: str, **steps: Any) -> None:
        """Lay profiles and behaviors over those of the test's markers; before any batch or worker begins.

        profiles: names of chaos profiles. steps: step or command type to behavior; none is fine. Errors:
        pytest.UsageError for what says nothing valid, and once the rules are in use.
        """
        self._runtime.add_rules(profiles, steps)
