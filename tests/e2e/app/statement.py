"""What becomes of transactions on their way to a statement: rows, totals, and their files. No SQL, no files here."""

import csv
import io
from collections.abc import Iterable, Sequence

import orjson

from tests.e2e.app.ledger import Transaction
from tests.e2e.app.rendering import Line


def transactions_to_csv(transactions: Sequence[Transaction]) -> bytes:
    """Return the transactions, one a row under a header; days as ISO dates."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Transaction._fields)
    writer.writerows(transactions)
    return text.getvalue().encode()


def totals_of_csv(content: bytes) -> list[Line]:
    """Return the totals by account and category of what `transactions_to_csv` gave, in that order."""
    rows = csv.reader(io.StringIO(content.decode(), newline=""))
    if next(rows, None) != list(Transaction._fields):
        raise ValueError(f"this is no file of transactions: its header is not {','.join(Transaction._fields)}")
    return totals((account, category, int(cents)) for account, _, category, cents in rows)


def totals(entries: Iterable[tuple[str, str, int]]) -> list[Line]:
    """Sum (account, category, cents) by account and category."""
    sums: dict[tuple[str, str], list[int]] = {}
    for account, category, cents in entries:
        total = sums.setdefault((account, category), [0, 0])
        total[0] += 1
        total[1] += cents
    return [Line(*key, count, cents) for key, (count, cents) in sorted(sums.items())]


def lines_to_json(lines: Sequence[Line]) -> bytes:
    """Return the totals as a list of [account, category, transactions, cents]."""
    return orjson.dumps([(line.account, line.category, line.transactions, line.cents) for line in lines])


def lines_of_json(content: bytes) -> list[Line]:
    """Return what `lines_to_json` was given."""
    return [Line(*values) for values in orjson.loads(content)]
