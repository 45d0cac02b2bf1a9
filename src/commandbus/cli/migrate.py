"""`commandbus migrate`."""

from pathlib import Path

import click
import psycopg

from commandbus import migrate as apply_migrations
from commandbus.cli.database import dsn_option, unreachable
from commandbus.cli.failures import Failure
from commandbus.errors import CommandBusError


@click.command(short_help="Bring the database's schema up to date.")
@dsn_option
@click.option(
    "--folder",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also apply your own V<number>__<name>.sql files of this folder. Repeatable.",
)
def migrate(dsn: str, folders: tuple[Path, ...]) -> None:
    """Bring the database's schema up to date.

    Prints the names of the migrations that were applied. Any number of processes may do it at once.

    \b
    Examples:
      commandbus migrate --dsn postgresql://shop@localhost/shop
      commandbus migrate --folder shop/migrations
    """
    try:
        applied = apply_migrations(dsn, folders=folders)
    except CommandBusError as error:
        raise Failure(str(error)) from error
    except psycopg.OperationalError as error:
        raise unreachable(dsn, error) from error
    except psycopg.Error as error:
        raise Failure(f"the database refused to migrate: {error}") from error
    for name in applied:
        click.echo(name)
    if not applied:
        click.echo("nothing to do")
