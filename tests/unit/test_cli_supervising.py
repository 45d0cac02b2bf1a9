"""How long a supervisor waits before it starts a process again."""

from commandbus.cli.supervising import Ended, backoff


def test_each_restart_waits_twice_as_long_up_to_a_minute() -> None:
    assert [backoff(restarts) for restarts in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(10_000) == 60


def test_an_end_is_told_in_words() -> None:
    assert str(Ended(12, 1, "exit code 1", True, 3.14)) == "pid 12 ended after 3.1 s: exit code 1"
    assert str(Ended(None, 1, "no memory", False, 0.0)) == "cannot be started: no memory"
