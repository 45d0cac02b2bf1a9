"""A worker process of this application: `python -m tests.e2e.app.worker --concurrency 4 --dsn postgresql://…`.

Takes the options of `commandbus worker`. Behavior of a whole claimed batch is read at once, by the chaos middleware.
"""

import sys
from collections.abc import Sequence

from commandbus.cli import main

APPLICATION = "tests.e2e.app.main:app"
MIDDLEWARE = "pytest_commandbus.behavior:chaos_middleware"


def run(options: Sequence[str]) -> None:
    """Work until SIGTERM or SIGINT; ends the process."""
    main(["worker", APPLICATION, "--middleware", MIDDLEWARE, *options], prog_name="python -m tests.e2e.app.worker")


if __name__ == "__main__":
    run(sys.argv[1:])
