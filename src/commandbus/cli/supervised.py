"""The other end of supervising: what a supervised process says, and how it learns that it is to stop."""

import asyncio
import os
from collections.abc import Callable


class Line:
    """A supervised process's end of the socket pair, by its file descriptor."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # what a handler starts must not hold it open
        self._descriptor = descriptor

    def say_ready(self) -> None:
        """Tell the supervisor; if it has gone, the line's end says so anyway."""
        try:
            os.write(self._descriptor, b"ready\n")
        except OSError:
            return

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
