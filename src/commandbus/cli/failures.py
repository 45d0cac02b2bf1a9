"""How a command of the command line fails: one line that says what, where and how to mend it, and an exit code."""

import click


class Failure(click.ClickException):
    """Something failed: ends the program with one line on stderr, exit code 1."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Misuse(Failure):
    """It was asked wrongly: exit code 2."""

    exit_code = 2


def one_line(text: object) -> str:
    """Return `text` as one line: the drivers' messages have several."""
    return " ".join(str(text).split())
