"""The auditor's session, and how every audit statement is read: bounded, with its findings counted.

An audit statement returns (rule, domain, subject, message), one row for each defect, and nothing in a sound database.
It reads its tables once, whatever the number of rules that it holds them against, and of those that a screen has read
for it (see audit_screen_sql) only what that found odd: %(odd_commands)s, %(odd_processes)s, all when NULL.
"""

from dataclasses import dataclass
from typing import LiteralString


@dataclass(frozen=True)
class AuditStatement:
    """One statement of the auditor: what it is called, which rules it checks, what must hold, and the SQL."""

    name: str
    rules: tuple[str, ...]
    description: str
    statement: LiteralString


class AuditSQL:
    """Statements around the audit statements."""

    # The first of the transaction: everything is judged as of one moment.
    ONE_SNAPSHOT: LiteralString = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

    # Whole tables are read, often before anything has analyzed them: a nested loop is never right but over survivors.
    SETTINGS: LiteralString = """
        SELECT pg_catalog.set_config('jit', 'off', true), pg_catalog.set_config('work_mem', '64MB', true),
               pg_catalog.set_config('enable_nestloop', 'off', true)
    """

    # What a screen does not let pass, as an array's text; NULL for so many that reading all is no more work.
    ODD: LiteralString = """
        SELECT CASE WHEN count(*) <= %(most)s THEN coalesce(array_agg(id), '{{}}')::text END FROM ({screen}) odd
    """

    # The first findings of each rule, with how many there are; of the given domains, or all when NULL.
    FINDINGS: LiteralString = """
        SELECT rule, subject, message, total
          FROM (SELECT rule, subject::text, message, count(*) OVER rule_rows AS total,
                       row_number() OVER (rule_rows ORDER BY subject, message) AS place
                  FROM ({statement}) defects
                 WHERE %(domains)s::text[] IS NULL OR domain = ANY (%(domains)s::text[])
                WINDOW rule_rows AS (PARTITION BY rule)) findings
         WHERE place <= %(limit)s
         ORDER BY rule, place
    """
