"""Random factors for delays, so that those who wait for the same thing do not come back at the same time."""

from random import SystemRandom

# Has no state of its own, and leaves alone that of the module: a program's seeded sequence stays its own.
_SOURCE = SystemRandom()


def factor(low: float, high: float) -> float:
    """Draw evenly between `low` and `high`."""
    return _SOURCE.uniform(low, high)
