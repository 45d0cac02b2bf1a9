"""`commandbus migrate`."""

from pathlib import Path

import click
import psycopg

from commandbus import migrate as apply_migrations
from commandbus.cli.database import dsn_option, refused, unreachable
from commandbus.cli.failures import Failure
from commandbus.cli.progress import spinner
from commandbus.errors import CommandBusError
from commandbus.roles import create_roles

_OWNER = (
    "migrate as the owner of the schema commandbus, or, where there is none yet, as a user with "
    "GRANT CREATE ON DATABASE; --roles needs CREATEROLE too"
)


@click.command(short_help="Bring the database's schema up to date.")
@dsn_option
@click.option(
    "--folder",
    "folders",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also apply your own V<number>__<name>.sql files of this folder. Repeatable.",
)
@click.option("--roles", is_flag=True, help="Also create the roles producer, worker, operator and auditor.")
@click.option(
    "--role-prefix", default="commandbus", show_default=True, metavar="NAME", help="What the roles' names begin with."
)
def migrate(dsn: str, folders: tuple[Path, ...], roles: bool, role_prefix: str) -> None:
    """Bring the database's schema up to date.

    Prints the names of the migrations that were applied. Any number of processes may do it at once. With --roles it
    also creates four roles which may do their part and no more, or brings them up to date; give them to your logins by
    GRANT.

    \b
    Examples:
      commandbus migrate --dsn postgresql://shop@localhost/shop
      commandbus migrate --folder shop/migrations
      commandbus migrate --roles
    """
    try:
        with spinner() as show:
            applied = apply_migrations(
                dsn, folders=folders, on_progress=lambda name, done, total: show(f"{done + 1} of {total}: {name}")
            )
        names = create_roles(dsn, prefix=role_prefix) if roles else []
    except CommandBusError as error:
        raise Failure(str(error)) from error
    except psycopg.OperationalError as error:
        raise unreachable(dsn, error) from error
    except psycopg.Error as error:
        raise refused("to migrate", error, _OWNER) from error
    for name in applied:
        click.echo(name)
    if not applied:
        click.echo("nothing to do")
    for name in names:
        click.echo(f"role {name}")
