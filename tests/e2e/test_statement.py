"""What the steps make of transactions, and the files that they leave: no bus, no database."""

import csv
import io
from datetime import date
from pathlib import Path

import pytest
from pypdf import PdfReader

from tests.e2e.app import statement
from tests.e2e.app.files import VARIABLE, ReportFiles
from tests.e2e.app.ledger import Transaction
from tests.e2e.app.rendering import HEADER, Line, OutputType, Statement, money, render, render_html, render_pdf

MAY = [
    Transaction("ACC-0002", date(2026, 5, 3), "rent", -90_000),
    Transaction("ACC-0001", date(2026, 5, 4), "groceries", -1_005),
    Transaction("ACC-0001", date(2026, 5, 9), "groceries", -2_000),
    Transaction("ACC-0001", date(2026, 5, 20), "salary", 300_000),
]
LINES = [
    Line("ACC-0001", "groceries", 2, -3_005),
    Line("ACC-0001", "salary", 1, 300_000),
    Line("ACC-0002", "rent", 1, -90_000),
]
STATEMENT = Statement("2026-05-01", "2026-05-31", LINES)


def test_totals_of_written_transactions() -> None:
    """Written and read again, they are summed by account and category, in order."""
    assert statement.totals_of_csv(statement.transactions_to_csv(MAY)) == LINES


def test_no_transactions_are_no_lines() -> None:
    """An empty result is a file with a header, and no totals."""
    assert statement.totals_of_csv(statement.transactions_to_csv([])) == []


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n"])
def test_another_file_is_refused(content: bytes) -> None:
    """A file that is not one of transactions is told by its header."""
    with pytest.raises(ValueError, match="header is not account,posted_on,category,amount_cents"):
        statement.totals_of_csv(content)


def test_lines_survive_their_file() -> None:
    """What the aggregation writes is what the renderer reads."""
    assert statement.lines_of_json(statement.lines_to_json(LINES)) == LINES


@pytest.mark.parametrize(
    ("cents", "text"), [(0, "0.00"), (5, "0.05"), (-5, "-0.05"), (-100, "-1.00"), (123_456, "1234.56")]
)
def test_money(cents: int, text: str) -> None:
    """Cents are shown with a sign and two decimals."""
    assert money(cents) == text


def test_csv_parses_back() -> None:
    """A CSV reader gives back the lines."""
    rows = list(csv.reader(io.StringIO(render(STATEMENT, OutputType.CSV).decode(), newline="")))
    assert rows == [
        list(HEADER),
        ["ACC-0001", "groceries", "2", "-30.05"],
        ["ACC-0001", "salary", "1", "3000.00"],
        ["ACC-0002", "rent", "1", "-900.00"],
    ]


def test_html_shows_the_lines_escaped() -> None:
    """Each amount is there, and nothing of the data becomes markup."""
    page = render_html(Statement("2026-05-01", "2026-05-31", [*LINES, Line("<b>", "a & b", 1, 5)])).decode()
    assert "<td>-30.05</td>" in page
    assert "<td>&lt;b&gt;</td><td>a &amp; b</td>" in page
    assert "<b>" not in page


def test_pdf_opens_and_has_the_text() -> None:
    """Another library reads the page: headline, lines and total."""
    content = render_pdf(STATEMENT)
    assert content.startswith(b"%PDF-")
    reader = PdfReader(io.BytesIO(content), strict=True)
    [page] = reader.pages
    text = page.extract_text()
    assert "Statement from 2026-05-01 to 2026-05-31" in text
    assert all(value in text for value in ("ACC-0002", "groceries", "-30.05", "3000.00"))
    assert "Total" in text
    assert "2069.95" in text


def test_pdf_has_as_many_pages_as_it_needs() -> None:
    """No line is lost between the pages."""
    lines = [Line(f"ACC-{n:04}", "fee", 1, n) for n in range(120)]
    reader = PdfReader(io.BytesIO(render_pdf(Statement("2026-05-01", "2026-05-31", lines))), strict=True)
    assert len(reader.pages) == 3
    text = "\n".join(page.extract_text() for page in reader.pages)
    assert [n for n in range(120) if f"ACC-{n:04}" not in text] == []


@pytest.mark.parametrize("output_type", OutputType)
def test_rendering_again_gives_the_same_file(output_type: OutputType) -> None:
    """No clock and no chance goes into a file."""
    assert render(STATEMENT, output_type) == render(STATEMENT, output_type)


def test_files_are_whole_and_final(tmp_path: Path) -> None:
    """A run over an earlier one replaces the file; nothing unfinished stays, and the folder is made when needed."""
    files = ReportFiles(tmp_path / "not" / "there")
    first = files.write("1.csv", b"first, and longer", claim=1)
    second = files.write("1.csv", b"second", claim=2)
    assert first == second
    assert files.read(second) == b"second"
    assert [path.name for path in Path(files.directory).iterdir()] == ["1.csv"]


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REPORT_DIR is read when a file is written, so that it holds for an application already imported."""
    files = ReportFiles()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert Path(files.write("1.csv", b"", claim=1)) == tmp_path / "1.csv"
    monkeypatch.delenv(VARIABLE)
    assert Path(files.directory).is_absolute()
    assert Path(files.directory) != tmp_path
