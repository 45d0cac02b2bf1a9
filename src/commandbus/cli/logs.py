"""How a command that goes on logs: to stderr, as text for people or as JSON for programs."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import click

from commandbus._core.connection import Pool
from commandbus.handler import Middleware
from commandbus.logging import CommandContextFilter, JsonFormatter, LogContext

_TEXT = "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"


def log_format_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --log-format; the command gets it as `log_format`."""
    return click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How it logs to stderr: lines for people, or a JSON object a line with the ids of the command.",
    )(function)


def set_up_logging(log_format: str) -> Sequence[Callable[[Pool], Middleware]]:
    """Log as asked, unless the program has set up logging itself; returns the middleware that it takes."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    if log_format == "json":
        handler.addFilter(CommandContextFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("psycopg.pool").setLevel(logging.WARNING)
    return [lambda _: LogContext()] if log_format == "json" else []
