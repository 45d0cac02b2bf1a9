"""The report on a lead: one page with its data and a chart."""

from typing import Any

from fpdf import FPDF

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
INK, MUTED, BAR = (28, 36, 48), (110, 118, 130), (37, 99, 235)
LEFT, TOP, WIDTH, HEIGHT = 22.0, 130.0, 166.0, 70.0  # of the chart, in mm


def _plain(text: object) -> str:
    """The fonts of every PDF reader know Latin-1."""
    return str(text).encode("latin-1", "replace").decode("latin-1")


def render(lead: dict[str, Any], figures: list[int], provider: str, template_version: str) -> bytes:
    """Draw the report; `figures` are those of twelve months. Returns the PDF."""
    page = FPDF(format="A4")
    page.set_creator("batch_report_runner")
    page.set_title(f"Lead {lead['lead_id']}")
    page.add_page()
    page.set_text_color(*INK)
    page.set_font("Helvetica", "B", 20)
    page.cell(0, 14, _plain(lead["name"]), new_x="LMARGIN", new_y="NEXT")
    page.set_font("Helvetica", size=11)
    page.set_text_color(*MUTED)
    page.cell(0, 7, _plain(f"{lead['company']} - report {template_version}"), new_x="LMARGIN", new_y="NEXT")
    page.ln(6)
    for label, value in _data(lead, figures, provider):
        page.set_text_color(*MUTED)
        page.cell(45, 8, label)
        page.set_text_color(*INK)
        page.cell(0, 8, _plain(value), new_x="LMARGIN", new_y="NEXT")
    _chart(page, figures)
    return bytes(page.output())


def _data(lead: dict[str, Any], figures: list[int], provider: str) -> list[tuple[str, object]]:
    return [
        ("Lead", lead["lead_id"]),
        ("E-mail", lead["email"]),
        ("Status", lead["status"]),
        ("Score", f"{lead['score']} (tier {lead['tier']})"),
        ("Figures by", provider),
        ("Orders in the year", sum(figures)),
        ("Best month", f"{MONTHS[figures.index(max(figures))]} with {max(figures)}"),
    ]


def _chart(page: FPDF, figures: list[int]) -> None:
    """Bars from zero, each with its month and its number."""
    page.set_xy(LEFT, TOP - 14)
    page.set_font("Helvetica", "B", 12)
    page.cell(0, 8, "Orders by month")
    page.set_font("Helvetica", size=8)
    page.set_text_color(*MUTED)
    page.set_draw_color(*MUTED)
    slot, most = WIDTH / len(figures), max(*figures, 1)
    page.set_fill_color(*BAR)
    for place, (month, value) in enumerate(zip(MONTHS, figures, strict=True)):
        height = HEIGHT * value / most
        x, y = LEFT + place * slot, TOP + HEIGHT - height
        page.rect(x + slot * 0.15, y, slot * 0.7, height, style="F")
        page.set_xy(x, y - 5)
        page.cell(slot, 5, str(value), align="C")
        page.set_xy(x, TOP + HEIGHT + 1)
        page.cell(slot, 5, month, align="C")
    page.line(LEFT, TOP + HEIGHT, LEFT + WIDTH, TOP + HEIGHT)
