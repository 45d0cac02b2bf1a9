"""SIGTERM and SIGINT (Ctrl-C): the first one asks, a second one does not wait."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """While entered, the first signal calls `stop`; a second one calls `at_once`, then ends the process."""

    def __init__(
        self,
        stop: Callable[[signal.Signals], None],
        at_once: Callable[[signal.Signals], None] = lambda _: None,
    ) -> None:
        self._stop = stop
        self._at_once = at_once
        self._asked = False
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        for number in _NUMBERS:
            self._loop.add_signal_handler(number, self._come, number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in _NUMBERS:
            self._loop.remove_signal_handler(number)

    def _come(self, number: signal.Signals) -> None:
        if not self._asked:
            self._asked = True
            self._stop(number)
            return
        self._at_once(number)
        logging.shutdown()
        os._exit(128 + number)
