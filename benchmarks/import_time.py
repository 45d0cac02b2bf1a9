"""What importing costs: CPU and wall time in a fresh interpreter, in milliseconds, start of the interpreter excluded.

`python -m benchmarks.import_time` prints medians of 20, with the least and the most. The limit is held against the CPU
time: on a quiet machine the wall time is the same, on a busy one it tells of the neighbours.
"""

import statistics
import subprocess
import sys
from collections.abc import Sequence

LIMIT = 100.0  # milliseconds of CPU that `import commandbus` may take
STATEMENTS = (
    "import commandbus",
    "from commandbus import App, CommandBus, Worker",
    "import psycopg, psycopg_pool",
    "import pytest_commandbus",
    "import commandbus.cli",
)
_TIMED = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
print((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3)
"""


def milliseconds(statement: str, runs: int = 20) -> tuple[list[float], list[float]]:
    """CPU and wall times of one statement, each sorted; a first run, which writes bytecode, is not counted."""
    program = [sys.executable, "-c", _TIMED.format(statement=statement)]
    found: list[Sequence[float]] = []
    for _ in range(runs + 1):
        printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
        found.append([float(value) for value in printed.split()])
    cpu, wall = (sorted(run[i] for run in found[1:]) for i in range(2))
    return cpu, wall


def main() -> int:
    """Print the table; 1 when `import commandbus` takes longer than it may."""
    median = 0.0
    for statement in STATEMENTS:
        cpu, wall = milliseconds(statement)
        told = [f"{statistics.median(each):6.1f} ({each[0]:.1f} to {each[-1]:.1f})" for each in (cpu, wall)]
        print(f"{statement:48} CPU {told[0]}  wall {told[1]}")
        if statement == STATEMENTS[0]:
            median = statistics.median(cpu)
    print(f"import commandbus: {median:.1f} ms of CPU, at most {LIMIT:.0f}")
    return int(median > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
