"""The other end of supervising: what a supervised process says, and how it learns that it is to stop."""

import asyncio
import os
from collections.abc import Callable

READY, DONE = b"ready\n", b"done\n"


class Line:
    """A supervised process's end of the socket pair, by its file descriptor."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # what a handler starts must not hold it open
        self._descriptor = descriptor

    def say_ready(self) -> None:
        """Tell the supervisor."""
        self._say(READY)

    def say_done(self) -> None:
        """Tell the supervisor, before ending, that this process was asked to end for good."""
        self._say(DONE)

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` once, when the supervisor closed its end or died. Needs a running event loop."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                data = os.read(self._descriptor, 64)
            except OSError:
                data = b""
            if not data:
                loop.remove_reader(self._descriptor)
                gone()

        loop.add_reader(self._descriptor, read)

    def _say(self, what: bytes) -> None:
        """Write a line; if the supervisor has gone, the line's end says so anyway."""
        try:
            os.write(self._descriptor, what)
        except OSError:
            return
