"""How long the auditor takes, screen by screen and statement by statement, on a database that is there.

The suite has the seconds of whole audits. Run this alone with `python -m benchmarks.audit DSN`; it only reads.
"""

import statistics
import sys
import time

import psycopg
from psycopg.sql import SQL

from commandbus._core.audit_sql import AuditSQL
from commandbus.auditor import LIVENESS_STATEMENTS, SAFETY_STATEMENTS, SCREENS

_RUNS = 5
_MOST = 300_000


def milliseconds(dsn: str) -> dict[str, list[float]]:
    """Milliseconds of each part of an audit."""
    found: dict[str, list[float]] = {}
    with psycopg.connect(dsn) as conn:
        for _ in range(_RUNS):
            with conn.transaction():
                conn.execute(AuditSQL.ONE_SNAPSHOT)
                conn.execute(AuditSQL.SETTINGS)
                odd: dict[str, str | None] = {}
                for screen in SCREENS:
                    began = time.perf_counter()
                    asked = SQL(AuditSQL.ODD).format(screen=SQL(screen.statement))
                    row = conn.execute(asked, {"most": _MOST}).fetchone()
                    odd[screen.name] = row[0] if row else None
                    found.setdefault(screen.name, []).append(1e3 * (time.perf_counter() - began))
                for statement in SAFETY_STATEMENTS + LIVENESS_STATEMENTS:
                    began = time.perf_counter()
                    asked = SQL(AuditSQL.FINDINGS).format(statement=SQL(statement.statement))
                    conn.execute(asked, {**odd, "domains": None, "limit": 20}).fetchall()
                    found.setdefault(statement.name, []).append(1e3 * (time.perf_counter() - began))
    return found


def main() -> None:
    """Measure and print, the dearest first."""
    found = {name: statistics.median(times) for name, times in milliseconds(sys.argv[1]).items()}
    for name, middle in sorted(found.items(), key=lambda pair: -pair[1]):
        print(f"{name}: {middle:,.0f} ms")
    print(f"together: {sum(found.values()):,.0f} ms")


if __name__ == "__main__":
    main()
