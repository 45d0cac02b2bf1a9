"""The command line: `commandbus worker`, `commandbus migrate`.

Exit codes: 0 done, 1 it failed, 2 it was asked wrongly (options, an application that cannot be loaded).
"""

import click

from commandbus.cli.audit import audit
from commandbus.cli.migrate import migrate
from commandbus.cli.prune import prune
from commandbus.cli.status import status
from commandbus.cli.tsq import tsq
from commandbus.cli.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pytest-commandbus")
def main() -> None:
    """A command bus on PostgreSQL: workers and migrations."""


main.add_command(worker)
main.add_command(migrate)
main.add_command(audit)
main.add_command(prune)
main.add_command(status)
main.add_command(tsq)
