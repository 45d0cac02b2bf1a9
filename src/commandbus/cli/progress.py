"""How far something is, on stderr: a bar where someone looks on, lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def progress(total: int, *, lines: bool) -> Iterator[Callable[[int, str], None]]:
    """Give what shows that so many of `total` are done, with a text beside; it goes when the block ends.

    lines: where nobody looks on, write one line whenever something changed; without, nothing.
    """
    if sys.stderr.isatty():
        with _bar(total) as show:
            yield show
        return
    last = ""

    def write(done: int, text: str) -> None:
        nonlocal last
        line = f"{done:,} of {total:,}{': ' if text else ''}{text}"
        if lines and line != last:
            click.echo(line, err=True)
        last = line

    yield write


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total or 1, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text, refresh=True)


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """Give what shows a line beside a spinner, for what has no known end; nothing where nobody looks on."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update
