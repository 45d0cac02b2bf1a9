"""A migration that was released never changes: databases out there have its checksum in their history."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from commandbus.migrate import Migration, own_migrations

RELEASED = Path(__file__).with_name("released_migrations.txt")


def broken_promises(listing: str, migrations: Sequence[Migration]) -> list[str]:
    """Hold the migrations against the listing; returns what is not as it was released."""
    ours = {migration.name: migration.checksum for migration in migrations}
    released = [line.split() for line in listing.splitlines() if line.strip() and not line.startswith("#")]
    wrong = []
    for place, (checksum, name) in enumerate(released):
        if name not in ours:
            wrong.append(f"{name} was released and is gone: put it back")
        elif ours[name] != checksum:
            wrong.append(f"{name} was released and has changed: restore it, and put the change into a new migration")
        elif place >= len(migrations) or migrations[place].name != name:
            wrong.append(f"{name} is not number {place + 1} any more: list the released ones in order, without gaps")
    return wrong


def test_no_released_migration_has_changed() -> None:
    assert broken_promises(RELEASED.read_text(), own_migrations()) == []


def sums(*migrations: tuple[str, str]) -> str:
    return "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in migrations)


def made(*migrations: tuple[str, str]) -> list[Migration]:
    return [
        Migration(number, name, text, hashlib.sha256(text.encode()).hexdigest())
        for number, (name, text) in enumerate(migrations, 1)
    ]


ONE, TWO = ("V001__one.sql", "SELECT 1;\n"), ("V002__two.sql", "SELECT 2;\n")


@pytest.mark.parametrize(
    ("released", "there", "told"),
    [
        (sums(ONE), made(ONE, TWO), []),
        ("# none yet\n", made(ONE), []),
        (sums(ONE, TWO), made(ONE, (TWO[0], "SELECT 2; -- better\n")), ["V002__two.sql was released and has changed"]),
        (sums(ONE, TWO), made(ONE), ["V002__two.sql was released and is gone"]),
        (sums(TWO), made(ONE, TWO), ["V002__two.sql is not number 1"]),
    ],
)
def test_what_breaks_the_promise_is_told(released: str, there: list[Migration], told: list[str]) -> None:
    found = broken_promises("# a comment\n\n" + released, there)
    assert len(found) == len(told)
    assert all(line.startswith(expected) for line, expected in zip(found, told, strict=True))


def test_the_listing_is_what_sha256sum_prints() -> None:
    """So that a release adds its migrations by one command of the shell."""
    folder = Path(__file__).parents[2] / "migrations"
    listing = "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in sorted(folder.iterdir()))
    assert broken_promises(listing, own_migrations()) == []
