"""`commandbus worker` in a process of a test: the same command line, but it ends when the test run does."""

import os
import signal
import sys
import threading


def end_with_parent() -> None:
    """Kill this process when its standard input ends, which is when pytest does, however it does."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with pytest", daemon=True).start()


if __name__ == "__main__":
    from commandbus.cli import main

    end_with_parent()
    sys.exit(main())
