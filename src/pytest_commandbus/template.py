"""What is in every test database from the start: the bus's schema, the plugin's, and the users' own migrations."""

from collections.abc import Sequence
from pathlib import Path

SCHEMA = Path(__file__).with_name("schema")


def version() -> str:
    """Return what changes whenever the bus's own migrations do."""
    from commandbus.migrate import own_migrations

    return " ".join(migration.checksum for migration in own_migrations())


def prepare(dsn: str, folders: Sequence[Path]) -> None:
    """Fill a new database: the bus's migrations, the users' own, then the schema e2e."""
    from commandbus import migrate

    from .behavior import install_e2e

    migrate(dsn, folders=folders)
    install_e2e(dsn)
