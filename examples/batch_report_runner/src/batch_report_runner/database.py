"""The database: brought up to date, filled with leads, taken back."""

from pathlib import Path

import psycopg

from commandbus import migrate

from . import sql

MIGRATIONS = Path(__file__).parent / "migrations"
LEADS = 5000


def prepare(dsn: str, leads: int = LEADS) -> list[str]:
    """Migrate the bus and the application, and seed the leads where there are none; returns what was migrated."""
    applied = migrate(dsn, folders=[MIGRATIONS / "batch_report_runner"])
    with psycopg.connect(dsn) as conn:
        conn.execute(sql.SEED_LEADS, {"count": leads})
    return applied


def take_back(dsn: str) -> None:
    """Remove the application's schema; what the bus did stays in the bus's audit trail."""
    with psycopg.connect(dsn) as conn:
        conn.execute((MIGRATIONS / "down.sql").read_bytes())
