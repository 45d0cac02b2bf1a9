"""`commandbus prune`: delete what ended long ago."""

import re
from datetime import timedelta

import click

from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Misuse
from commandbus.cli.output import json_option, print_record, row_of, run
from commandbus.cli.progress import spinner
from commandbus.prune import Pruned
from commandbus.prune import prune as delete_old

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _age(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhdw])", value)
    if found is None:
        raise Misuse(f"--older-than: {value!r} is no age: write a number and s, m, h, d or w, for example 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.command(short_help="Delete what ended long ago.")
@click.option(
    "--older-than", callback=_age, required=True, metavar="AGE", help="How long ago it ended: 90s, 15m, 12h, 30d, 8w."
)
@click.option("--domain", "domains", multiple=True, help="Delete of this domain only. Repeatable. [default: all]")
@click.option("--dry-run", is_flag=True, help="Delete nothing, only count.")
@dsn_option
@json_option
def prune(older_than: timedelta, domains: tuple[str, ...], dry_run: bool, dsn: str, as_json: bool) -> None:
    """Delete commands, processes and batches that ended before an age, with their audit trails.

    A process goes with all its commands, a batch with all its members, both only as a whole; a command whose reply is
    not consumed stays. Workers that are gone that long, and old statistics of workers, go too. Each transaction is
    small: it may run beside workers, beside another prune, and be ended at any moment. The id of a deleted command is
    free again.

    \b
    Examples:
      commandbus prune --older-than 30d --dry-run
      commandbus prune --older-than 30d --domain orders
      commandbus prune --older-than 8w --json
    """
    so_far = Pruned()
    is_finished = False
    try:
        with spinner() as show:

            def note(counts: Pruned) -> None:
                nonlocal so_far
                so_far = counts
                show(f"{counts.commands:,} commands, {counts.processes:,} processes, {counts.batches:,} batches")

            run(
                dsn,
                lambda pool: delete_old(pool, older_than, domains=domains or None, dry_run=dry_run, on_progress=note),
            )
        is_finished = True
    finally:
        if is_finished or so_far != Pruned():
            print_record({"dry_run": dry_run, "finished": is_finished, **row_of(so_far)}, as_json=as_json)
