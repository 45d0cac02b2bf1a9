"""Every command line that the documentation shows or names is one that its program would take."""

from pathlib import Path

import click
import pytest

from .command_lines import DOCUMENTS, Checker, Line, WrongLineError, lines_of


@pytest.fixture
def checker(pytestconfig: pytest.Config, tmp_path: Path) -> Checker:
    return Checker(pytestconfig, tmp_path)


def told(error: Exception) -> str:
    return error.format_message() if isinstance(error, click.ClickException) else str(error)


def test_every_command_line_is_one_that_its_program_takes(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    wrong, programs = [], set()
    for number, line in enumerate(line for document in DOCUMENTS for line in lines_of(document)):
        folder = tmp_path / str(number)
        folder.mkdir()
        programs.add(line.text.split()[0])
        try:
            Checker(pytestconfig, folder).check(line)
        except (WrongLineError, click.ClickException, pytest.UsageError) as error:
            wrong.append(f"{line.where}: {line.text}: {told(error)}")
    assert not wrong, "\n".join(wrong)
    assert {"commandbus", "pytest", "python", "make", "pip"} <= programs


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("commandbus migrate --foldr migrations", "--foldr"),
        ("commandbus tsq retyr 01a20266-21d0-70ba-8dde-a258c2de6a9e", "retyr"),
        ("commandbus tsq show 17", "17"),
        ("commandbus worker", "MODULE:APP"),
        ("commandbus status --window 99999 2> log &", "99999"),
        ("COMMANDBUS_DSN=x commandbus prune --older-than 30years --dry-run", "30years"),
        ("pytest --cb-laod=100", "--cb-laod"),
        ("pytest -n 2 --cb-load=0 -m load", "0"),
        ("pytest tests/unit/test_nothing.py", "test_nothing"),
        ("python -m tests.e2e.app --prot 80  # any port", "--prot"),
        ("python -m tests.e2e.load_test --success-pct 101", "101"),
        ("python -m tests.soak --second 5", "--second"),
        ("python -m benchmarks.nothing", "benchmarks.nothing"),
        ("python -m batch_report_runner undo", "undo"),
        ("python -m tests.e2e.app.worker --concurency 4", "--concurency"),
        ("make tset", "tset"),
        ("make soak SECOND=5", "SECOND"),
        ("make -C examples/order_saga nothing", "nothing"),
        ("pip install 'pytest-commandbus[wbe]'", "wbe"),
        ("echo 1 | frobnicate", "frobnicate"),
    ],
)
def test_a_wrong_one_is_found(text: str, problem: str, checker: Checker) -> None:
    with pytest.raises((WrongLineError, click.ClickException, pytest.UsageError)) as caught:
        checker.check(Line(text, "README.md", only_named=False))
    assert problem in told(caught.value)


def test_one_that_is_only_named_may_lack_what_follows_but_have_nothing_wrong(checker: Checker) -> None:
    for text in ("commandbus tsq retry", "commandbus worker --dsn", "commandbus audit COMMAND_ID", "commandbus tsq"):
        checker.check(Line(text, "README.md", only_named=True))
    for text in ("commandbus tsq retyr", "commandbus worker --dns", "commandbus audit COMMAND_ID --jsn"):
        with pytest.raises(click.UsageError):
            checker.check(Line(text, "README.md", only_named=True))
