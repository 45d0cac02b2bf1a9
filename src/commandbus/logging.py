"""What log records say of commands: the fields of commandbus's own, and the same ids on a handler's own lines.

Every record of commandbus about a command has, as attributes, those of FIELDS that are known; so has every line that a
handler logs itself where CommandContextFilter and LogContext are used. Ids are strings. By the standard library alone.
"""

import json
import logging
import traceback
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from commandbus._core.queue_sql import Claimed
from commandbus.handler import HandlerContext, Middleware, Result
from commandbus.payload import sanitise_text

FIELDS = (
    "domain",
    "command_id",
    "command_type",
    "correlation_id",
    "batch_id",
    "process_id",
    "process_type",
    "step",
    "worker_id",
    "epoch",
    "attempt",
)
"""The attributes that say which command a record is about. `batch_id` is that of the command or of its process."""

_LONGEST = 500  # characters of somebody else's text in a message
_LONGEST_TRACEBACK = 20_000  # characters
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_running: ContextVar[HandlerContext] = ContextVar("commandbus_running")


def about(**known: Any) -> dict[str, Any]:
    """Give the `extra` of a record: what is known, without None, ids as strings."""
    return {k: str(v) if isinstance(v, UUID) else v for k, v in known.items() if v is not None}


def about_claimed(claimed: Claimed, domain: str, worker_id: int | None) -> dict[str, Any]:
    """Give the `extra` of a record about a claimed command."""
    return about(
        domain=domain,
        command_id=claimed.command_id,
        command_type=claimed.command_type,
        correlation_id=claimed.correlation_id,
        batch_id=claimed.batch_id or claimed.process_batch_id,
        process_id=claimed.process_id,
        process_type=claimed.process_type,
        step=claimed.step,
        worker_id=worker_id,
        epoch=claimed.epoch,
        attempt=claimed.failures + 1,
    )


def about_running(context: HandlerContext) -> dict[str, Any]:
    """Give the same of a command whose handler runs."""
    command = context.command
    return about(
        domain=command.domain,
        command_id=command.command_id,
        command_type=command.command_type,
        correlation_id=command.correlation_id,
        batch_id=command.batch_id or context.process_batch_id,
        process_id=context.process_id,
        process_type=context.process_type,
        step=context.step,
        worker_id=context.worker_id,
        epoch=context.epoch,
        attempt=context.attempt,
    )


def in_one_line(text: object) -> str:
    """Somebody else's text, such as an error's message, for a log: one line, and nothing that a terminal obeys."""
    short = " ".join(str(text)[: 2 * _LONGEST].split())[:_LONGEST]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def log_error(
    logger: logging.Logger,
    level: int,
    message: str,
    *values: object,
    error: BaseException | None,
    extra: dict[str, Any],
) -> None:
    """Log as the logger would, with the error's traceback; one that no file could take is made harmless before."""
    if not logger.isEnabledFor(level):
        return
    cause = None if error is None else (type(error), error, error.__traceback__)
    file, line, function, _ = logger.findCaller(stacklevel=2)
    record = logger.makeRecord(logger.name, level, file, line, message, values, cause, function, extra)
    if error is not None:
        text = "".join(traceback.format_exception(error)).rstrip()
        if len(text) > _LONGEST_TRACEBACK or not _is_plain(text):
            record.exc_text = sanitise_text(text, limit=_LONGEST_TRACEBACK)
    logger.handle(record)


def _is_plain(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class LogContext(Middleware):
    """A middleware that lets CommandContextFilter know which command's handler logs. Make it the outermost.

    It covers what the handler calls, its tasks, and the thread of a plain handler. Without it nothing is spent.
    """

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        """Run the handler with its context known."""
        token = _running.set(context)
        try:
            return await call_next()
        finally:
            _running.reset(token)


class CommandContextFilter(logging.Filter):
    """Gives each record that passes the FIELDS of the command whose handler logs it; None where there is none.

    Add it to the logging handlers, not to a logger: those see the records of all loggers. What a record says of itself
    stays. It drops nothing.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete the record."""
        context = _running.get(None)
        known = {} if context is None or hasattr(record, "command_id") else about_running(context)
        for name in FIELDS:
            if not hasattr(record, name):
                setattr(record, name, known.get(name))
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, whatever else the record has, its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD and k not in line and v is not None}
        if record.exc_info:
            line["exception"] = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str)
