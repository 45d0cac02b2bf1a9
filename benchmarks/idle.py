"""What a worker process costs that has nothing to do: its own CPU time, and that of PostgreSQL for it.

Run it alone with `python -m benchmarks.idle`.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from psycopg import connect

from benchmarks._trivial import ThreeSteps, work
from commandbus import App, migrate
from pytest_commandbus.postgres.server import EmbeddedPostgres

_START = 5.0  # seconds after which a worker that said it is ready has done all that it does once

app = App()
app.add_process(ThreeSteps)
for domain in ("bench", "other"):
    app.registry.add(domain, "First", work)


def cores(seconds: float = 60.0) -> dict[str, float]:
    """Percent of a core that an idle worker of two domains takes, and percent that its backends take."""
    with EmbeddedPostgres(durable=True) as server:
        dsn = server.dsn()
        migrate(dsn)
        command = [sys.executable, "-m", "commandbus", "worker", "benchmarks.idle:app", "--dsn", dsn]
        worker = subprocess.Popen(command, cwd=Path(__file__).parent.parent, stderr=subprocess.PIPE, text=True)
        try:
            if not any("worker ready" in line for line in worker.stderr or ()):
                raise SystemExit("the worker ended before it was ready")
            time.sleep(_START)
            with connect(dsn, autocommit=True) as conn:
                backends = [row[0] for row in conn.execute(_BACKENDS).fetchall()]
            before = _cpu([worker.pid]), _cpu(backends)
            time.sleep(seconds)
            after = _cpu([worker.pid]), _cpu(backends)
        finally:
            worker.terminate()
            worker.wait()
    worker_cpu, server_cpu = (100 * (b - a) / seconds for a, b in zip(before, after, strict=True))
    return {"worker": worker_cpu, "backends": server_cpu}


_BACKENDS = """
    SELECT pid FROM pg_stat_activity
     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND datname = current_database()"""


def _cpu(pids: list[Any]) -> float:
    """CPU seconds of these processes, by the scheduler's clock, which counts nanoseconds; needs Linux."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    found = cores(seconds)
    print(
        f"an idle worker of two domains over {seconds:g} s: {found['worker']:.2f} % of a core, "
        f"its backends {found['backends']:.2f} %"
    )


if __name__ == "__main__":
    main()
