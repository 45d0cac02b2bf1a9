"""Chaos profiles for the tests of the plugin."""

import textwrap

from .conftest import Suite

INI = '[tool.pytest.ini_options]\npythonpath = ["."]\n'
BROKEN = "[tool.commandbus.chaos.broken-payment]\npay = { fail_permanent_pct = 100 }\n"
ROUGH = """
    [tool.commandbus.chaos.rough]
    reserve_stock = { fail_transient_pct = 30, timeout_pct = 10 }
    ship = { fail_business_rule_pct = 30 }

    [tool.commandbus.chaos.rough.TakePayment]
    fail_permanent_pct = 20
"""
EMPTY_TEST = "async def test_it(cb_process_batch):\n    pass\n"


def with_profiles(suite: Suite, text: str) -> None:
    suite.pytester.makepyprojecttoml(INI + textwrap.dedent(text))
