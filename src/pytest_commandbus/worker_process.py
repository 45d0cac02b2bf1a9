"""`commandbus worker` in a process of a test: the same command line, but it ends when the test run does."""

import os
import signal
import sys
import threading
import time

GRACE = "CB_WORKER_GRACE"
"""Environment variable: seconds that the process gets to stop gracefully; none when it is not set."""


def end_with_parent() -> None:
    """End this process when its standard input ends, which is when whoever started it does, however that does."""
    grace = float(os.environ.get(GRACE, "0"))

    def watch() -> None:
        while os.read(0, 1024):
            pass
        if grace:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with pytest", daemon=True).start()


if __name__ == "__main__":
    from commandbus.cli import main

    end_with_parent()
    sys.exit(main())
