"""The command line: `commandbus --help` tells its commands.

Exit codes: 0 done, 1 it failed, 2 it was asked wrongly (options, an application that cannot be loaded), and 128 with
the signal's number when a signal ended it.
"""

import errno
import io
import signal
import sys
from typing import Any

import click

from commandbus.cli.audit import audit
from commandbus.cli.batch import batch
from commandbus.cli.completion import completion
from commandbus.cli.console import console, console_password
from commandbus.cli.failures import Failure
from commandbus.cli.metrics import metrics
from commandbus.cli.migrate import migrate
from commandbus.cli.prune import prune
from commandbus.cli.status import status
from commandbus.cli.stop import stop
from commandbus.cli.tsq import tsq
from commandbus.cli.worker import worker

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _Main(click.Group):
    """Lists its commands as they were added, in the order in which one needs them; writes to any terminal."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # what their encoding lacks is escaped: no reason to fail
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # in what runs without an event loop, whose commands see to signals by themselves
            click.echo("stopped by SIGINT", err=True)
            raise click.exceptions.Exit(128 + signal.SIGINT) from None
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise Failure(f"the output cannot be written: {error.strerror}; make room, or send it elsewhere") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pytest-commandbus")
def main() -> None:
    """A command bus on PostgreSQL: its workers, and what its operators need.

    Every command works on the database that --dsn or COMMANDBUS_DSN names; what they leave out comes from libpq's
    variables (PGHOST, PGDATABASE, PGPASSWORD …). Those that list or show something print JSON with --json.

    \b
    Begin with:
      export COMMANDBUS_DSN=postgresql://shop@localhost/shop
      commandbus migrate
      commandbus worker shop.main:app
      commandbus status

    Exit codes: 0 done, 1 it failed (or the audit found something), 2 it was asked wrongly, 128 + n ended by signal n.
    """


for command in (
    migrate, worker, stop, status, tsq, batch, audit, prune, metrics, console, console_password, completion,
):  # fmt: skip
    main.add_command(command)
