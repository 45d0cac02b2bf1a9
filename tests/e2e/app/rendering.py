"""A statement as CSV, HTML or PDF, from the totals of its accounts.

The HTML is escaped by its library; PDFs are drawn by reportlab, which takes a quarter of the time of a layout engine
for a page of this size.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import jinja2

HEADER = ("account", "category", "transactions", "amount")

_PAGE_WIDTH, _PAGE_HEIGHT = 595, 842  # A4, in points
_MARGIN, _LINE = 50, 14
_COLUMNS = (_MARGIN, 160, 330, 480)  # the first two begin there, the numbers end there

_HTML = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ s.title }}</title></head>
<body>
<h1>{{ s.title }}</h1>
<table>
<thead><tr>{% for name in header %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in s.lines -%}
<tr><td>{{ line.account }}</td><td>{{ line.category }}</td>
<td>{{ line.transactions }}</td><td>{{ line.amount }}</td></tr>
{% endfor -%}
</tbody>
<tfoot><tr><th scope="row" colspan="3">Total</th><td>{{ s.total }}</td></tr></tfoot>
</table>
</body>
</html>
"""


class OutputType(StrEnum):
    """What a statement is written as."""

    PDF = "pdf"
    HTML = "html"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Line:
    """The total of one category of one account."""

    account: str
    category: str
    transactions: int
    cents: int

    @property
    def amount(self) -> str:
        """The amount with its two decimals."""
        return money(self.cents)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement shows; the days as ISO dates."""

    from_date: str
    to_date: str
    lines: Sequence[Line]

    @property
    def title(self) -> str:
        """The headline."""
        return f"Statement from {self.from_date} to {self.to_date}"

    @property
    def total(self) -> str:
        """The sum of all lines, with its two decimals."""
        return money(sum(line.cents for line in self.lines))


def money(cents: int) -> str:
    """Return an amount of cents with two decimals: -5 is -0.05."""
    units, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}{units}.{rest:02}"


def render(statement: Statement, output_type: OutputType) -> bytes:
    """Return the statement as a file of that type."""
    return _RENDERERS[output_type](statement)


def render_csv(statement: Statement) -> bytes:
    """Return the lines, one a row, under a header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEADER)
    writer.writerows((line.account, line.category, line.transactions, line.amount) for line in statement.lines)
    return text.getvalue().encode()


def render_html(statement: Statement) -> bytes:
    """Return a page with one table."""
    return _template().render(s=statement, header=HEADER).encode()


def render_pdf(statement: Statement) -> bytes:
    """Return a PDF, with as many pages as the lines need."""
    from reportlab.pdfgen.canvas import Canvas  # a heavy import that a worker without PDFs never needs

    file = io.BytesIO()
    canvas = Canvas(file, pagesize=(_PAGE_WIDTH, _PAGE_HEIGHT), pageCompression=1, invariant=1)
    canvas.setTitle(statement.title)
    rows = [HEADER, *((li.account, li.category, str(li.transactions), li.amount) for li in statement.lines)]
    rows.append(("Total", "", "", statement.total))
    on_a_page = (_PAGE_HEIGHT - 3 * _MARGIN) // _LINE
    for start in range(0, len(rows), on_a_page):
        canvas.setFont("Helvetica-Bold", 14)
        canvas.drawString(_MARGIN, _PAGE_HEIGHT - _MARGIN, statement.title)
        canvas.setFont("Helvetica", 10)
        for place, (account, category, count, amount) in enumerate(rows[start : start + on_a_page], 2):
            y = _PAGE_HEIGHT - _MARGIN - place * _LINE
            canvas.drawString(_COLUMNS[0], y, account)
            canvas.drawString(_COLUMNS[1], y, category)
            canvas.drawRightString(_COLUMNS[2], y, count)
            canvas.drawRightString(_COLUMNS[3], y, amount)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


_RENDERERS: dict[OutputType, Callable[[Statement], bytes]] = {
    OutputType.CSV: render_csv,
    OutputType.HTML: render_html,
    OutputType.PDF: render_pdf,
}


@cache
def _template() -> jinja2.Template:
    """Compile the page once a process."""
    return jinja2.Environment(autoescape=True).from_string(_HTML)
