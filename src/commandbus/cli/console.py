"""`commandbus console`: the operator console of an application, and `commandbus console-password` for its users."""

import asyncio
import dataclasses
import importlib
import os
from pathlib import Path
from types import ModuleType

import click

from commandbus._core.connection import Pool
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Failure, Misuse
from commandbus.cli.loading import load_app
from commandbus.cli.running import run
from commandbus.cli.signals import Signals
from commandbus.cli.user import user
from commandbus.errors import CommandBusError

_ANY = ("0.0.0.0", "::", "")  # noqa: S104  addresses that no browser names
_POOL = 10  # connections: pages are short, and the live stream needs one at a time


@click.command(short_help="Show the operator console of an application in a browser.")
@click.argument("application", metavar="MODULE:APP")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need --users.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0 takes a free one.")
@click.option(
    "--users",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="COMMANDBUS_CONSOLE_USERS",
    show_envvar=True,
    help="File of those who may sign in, with lines that `commandbus console-password` prints.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A host name under which browsers reach it, beside this machine's own. Repeatable.",
)
@click.option("--https-only", is_flag=True, help="Browsers reach it by https, through a proxy: cookies are for that.")
@click.option("--title", help="What stands at the top. [default: the application's name]")
@dsn_option
def console(
    application: str,
    host: str,
    port: int,
    users: Path | None,
    allowed_hosts: tuple[str, ...],
    https_only: bool,
    title: str | None,
    dsn: str,
) -> None:
    """Serve the operator console of the application MODULE:APP until SIGTERM or SIGINT.

    Without --users it answers on this machine only. COMMANDBUS_CONSOLE_SECRET, if set, signs the sessions, so that
    they outlive a restart. Needs the extra web: pip install 'pytest-commandbus[web]'.

    \b
    Examples:
      commandbus console shop.main:app
      commandbus console shop.main:app --port 9000
      commandbus console shop.main:app --host 0.0.0.0 --users console-users --allowed-host bus.example.org
    """
    web = _web()
    hosts = {*web.settings.LOOPBACK, *allowed_hosts} | ({host} if host not in _ANY else set())
    try:
        settings = web.ConsoleSettings(
            allowed_hosts=tuple(f"[{name}]" if ":" in name and "[" not in name else name for name in sorted(hosts)),
            auth=None if users is None else web.Users.read(users),
            secure_cookies=https_only,
            **({"secret": secret} if (secret := os.environ.get("COMMANDBUS_CONSOLE_SECRET")) else {}),
        )
        if settings.auth is None:
            web.settings.require_loopback(host)
    except (CommandBusError, ValueError) as error:
        raise Misuse(str(error)) from error
    app = load_app(application)
    settings = dataclasses.replace(settings, title=title or app.name or settings.title, operator=user())

    async def show(pool: Pool) -> None:
        stop = asyncio.Event()
        with Signals(lambda _: stop.set()):
            try:
                await web.serve(web.create_console(app, pool, settings), host=host, port=port, stop=stop, on_ready=_say)
            except OSError as error:
                raise Failure(
                    f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --port or --host"
                ) from error

    run(dsn, show, pool_size=_POOL)


def _say(address: str) -> None:
    click.echo(f"console ready: {address}/", err=True)


def _web() -> ModuleType:
    try:
        return importlib.import_module("commandbus.web")
    except ImportError as error:
        raise Misuse(str(error)) from error


@click.command(short_help="Print the line of a user for `commandbus console --users`.")
@click.argument("name")
@click.password_option(help="At least 8 characters; asked for when it is left out.")
def console_password(name: str, password: str) -> None:
    """Ask for a password, and print the line of a user NAME for the file of `commandbus console --users`.

    \b
    Example:
      commandbus console-password anna >>console-users
    """
    web = _web()
    if ":" in name or not name.isprintable():
        raise Misuse(f"a user's name has no colon and no control character, as {name!r} has")
    try:
        click.echo(f"{name}:{web.hash_password(password)}")
    except ValueError as error:
        raise Misuse(f"password of {name}: {error}") from error
