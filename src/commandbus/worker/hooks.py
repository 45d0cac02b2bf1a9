"""Tells middleware of outcomes: before they are settled, and after. Without such middleware nothing is done."""

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from commandbus.handler import Ended, Middleware
from commandbus.settlement import Finished

_log = logging.getLogger(__name__)

_Hook = Callable[[Sequence[Ended]], Awaitable[None]]
_LATE = "LATE_OUTCOME_DROPPED"


class SettleHooks:
    """The `settling` and `settled` of a worker's middleware, the outermost first."""

    def __init__(self, middleware: Sequence[Middleware] = ()) -> None:
        self._settling = [m.settling for m in middleware if type(m).settling is not Middleware.settling]
        self._settled = [m.settled for m in middleware if type(m).settled is not Middleware.settled]

    async def before(self, group: Sequence[Finished]) -> None:
        """Tell of a group that is about to be settled."""
        if self._settling:
            await _tell(self._settling, _ended(group))

    async def after(self, group: Sequence[Finished], lost: Collection[int] = ()) -> None:
        """Tell of a group that is settled; `lost` are the seqs of what was no longer this worker's."""
        if self._settled:
            await _tell(self._settled, _ended(group, lost))


def _ended(group: Sequence[Finished], lost: Collection[int] = ()) -> list[Ended]:
    return [
        Ended(f.context, _LATE if f.claimed.seq in lost else f.outcome.event) for f in group if f.context is not None
    ]


async def _tell(hooks: Sequence[_Hook], batch: Sequence[Ended]) -> None:
    if not batch:  # commands without a handler here have no attempt
        return
    for hook in hooks:
        try:
            await hook(batch)
        except Exception:  # a user's middleware may raise anything; the outcomes are recorded all the same
            _log.exception("a middleware failed while %d outcomes were settled", len(batch))
