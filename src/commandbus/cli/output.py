"""What the command line prints: a table or a record for people, one JSON document for programs.

Commands that ask the database run by `run` (see commandbus.cli.running), which is at hand here too.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import click

from commandbus.cli.running import run

__all__ = ["json_option", "print_json", "print_record", "print_table", "row_of", "run", "shown"]


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json; the command gets it as `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document: ISO times, ids as strings.")(
        function
    )


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print one row a line under the names of the columns; in JSON the rows whole, with what no column shows.

    On a terminal it is a table that fits; elsewhere columns are aligned by spaces and never cut.
    """
    if as_json:
        print_json(rows)
    elif sys.stdout.isatty():
        _print_rich(rows, columns)
    else:
        _print_plain(rows, columns)


def print_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the fields of one thing, one a line."""
    if as_json:
        print_json(record)
        return
    width = max(map(len, record), default=0) + 1
    for name, value in record.items():
        click.echo(f"{name + ':':<{width}} {shown(value)}")


def print_json(value: Any, *, one_line: bool = False) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=None if one_line else 2, default=_jsonable))


def row_of(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass's instance, as a row."""
    return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}


def shown(value: Any) -> str:
    """Write a value in one line: UTC to the second, JSON for what is nested, - for nothing.

    What a terminal would act on (escape sequences, line ends) is written as an escape: the text may be anybody's.
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, (Mapping, list, tuple)):
        value = json.dumps(value, default=_jsonable, ensure_ascii=False)
    if isinstance(value, float):
        value = f"{value:,.3f}".rstrip("0").rstrip(".")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def _print_plain(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    lines = [[name.upper() for name in columns], *([shown(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        values = [row.get(name) for row in rows]
        is_number = all(isinstance(value, (int, float, type(None))) and not isinstance(value, bool) for value in values)
        is_id = any(isinstance(value, UUID) for value in values)  # one is copied: it stays in one piece
        justify: Literal["left", "right"] = "right" if rows and is_number else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=is_id)
    for row in rows:
        table.add_row(*(Text(shown(row.get(name))) for name in columns))
    Console().print(table)


def _jsonable(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, str)):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return row_of(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
