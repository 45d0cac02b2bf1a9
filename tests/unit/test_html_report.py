"""The load report as a page: whole, of itself, the same figures as tables; legible in the light and in the dark."""

import re
from pathlib import Path

import pytest

from pytest_commandbus import html_report, report
from pytest_commandbus.charts import Line, chart, stretch, tick_label, ticks
from pytest_commandbus.compare import Earlier
from tests.unit.html_page import Page
from tests.unit.load_results import result

THRESHOLDS = [
    {"name": "p99_ms", "limit": 500, "figure": 1234.5, "passed": False, "step": "Render"},
    {"name": "max_seconds", "limit": 60, "figure": 5.25, "passed": True},
]
LEGIBLE = (
    *(("ink", "paper"), ("soft", "paper"), ("soft", "raised"), ("a", "paper")),
    *(("good", "good-paper"), ("bad", "bad-paper")),
)


def page(**changes: object) -> Page:
    return Page(html_report.render([result(**changes)]))


def test_the_page_is_whole_and_loads_nothing() -> None:
    shown = page()
    assert shown.text.startswith("<!DOCTYPE html>")
    assert shown.outside() == []
    assert shown.tags["html"] == [{"lang": "en"}]
    assert [len(shown.tags[heading]) for heading in ("h1", "h3")] == [1, 0]
    assert all(caption for caption, _ in shown.tables)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in shown.tags["meta"]


def test_the_verdict_comes_first_and_figures_stand_in_tables() -> None:
    shown = page(thresholds=THRESHOLDS)
    assert (
        "test_reports tests/test_a.py · 2026-05-01 10:00:00 UTC 1 of 2 thresholds broken: p99_ms Every process"
        in shown.said
    )
    assert shown.said.index("10,000 Processes/s 2,500") < shown.said.index("Throughput")
    assert shown.table("What the marker asks")[1:] == [
        ["p99_ms", "broken", "1,234.5 ms in Render", "at most 500 ms"],
        ["max_seconds", "met", "5.2 s", "at most 60 s"],
    ]
    assert [row[:4] for row in shown.table("How the processes ended")[1:]] == [
        ["COMPLETED", "9,700", "9,700", "97.0 %"],
        ["WAITING_FOR_TSQ", "300", "300", "3.0 %"],
    ]
    assert " ".join(shown.table("Latency in ms")[2]) == "Render 0.10 0.20 0.30 1.23 12.3 1,234 400 500 2,000"
    assert shown.table("Attempts")[1] == ["Render", "9,700", "41", "300"]
    assert ["seed", "42"] in shown.table("What ran")
    over_time = shown.table("By time since the run began")
    assert over_time[2] == ["0 to 2 s", "0", "0", "10,000", *["-"] * 9]
    assert " ".join(over_time[4]) == "4 to 6 s 4,000 9,700 2,000 0.20 0.20 0.30 2.00 14.0 1,300 400 600 2,100"


def test_charts_have_a_text_alternative_axes_and_tooltips() -> None:
    shown = page()
    images = [svg for svg in shown.tags["svg"] if svg.get("role") == "img"]
    assert len(images) == len(shown.tags["figure"]) == 2 + len(report.LATENCIES)
    told = [str(image["aria-label"]) for image in images]
    assert told[0].startswith("Throughput over 6 seconds: commands at most 9,700 /s, processes at most 4,000 /s.")
    assert told[1].startswith("Backlog over 6 seconds: sent, not ended or parked at most 10,000 commands.")
    assert told[2].startswith("Latency: waiting over 6 seconds: p50 at most 0.20 ms")
    assert told[4].startswith("Latency: end to end over 6 seconds: p50 at most 0.40 s")
    assert "2 to 4 s commands: 5,000 /s processes: 1,000 /s" in shown.said


def test_a_page_of_several_runs_leads_to_each() -> None:
    environment = {
        **result()["environment"],
        "run": 2,
        "predicted": None,
        "not_predicted": "the path depends on results",
    }
    shown = Page(html_report.render([result(thresholds=THRESHOLDS[1:]), result(environment=environment)]))
    targets = [str(link["href"]).removeprefix("#") for link in shown.tags["a"]]
    assert targets == [str(article["id"]) for article in shown.tags["article"]] == ["run1", "run2"]
    assert len(shown.tags["h1"]) == 1
    assert len(shown.tags["h2"]) == 2
    assert "test_reports the one threshold is met test_reports, run 2 no thresholds" in shown.said
    assert "No prediction: the path depends on results" in shown.said


def test_the_comparison_is_told() -> None:
    earlier = Earlier(Path("old.json"), [result(processes_per_second=5000.0)])
    shown = Page(html_report.render([result()], earlier))
    assert ["processes", "-50.0", "worse", "5,000/s", "2,500/s", "-2,500/s"] in shown.table(
        "Each figure before and now"
    )
    assert "-50.0 % processes/s against the earlier run" in shown.said
    shown = Page(html_report.render([result(environment={**result()["environment"], "run": 2})], earlier))
    assert "old.json has no run of this test." in shown.said


def test_what_came_from_a_test_is_no_markup() -> None:
    nasty = "<script>alert(1)</script>&\"'"
    environment = {
        **result()["environment"],
        "test": f"a.py::test_it[{nasty}]",
        "mismatches": 1,
        "mismatch_samples": [nasty],
        "chaos": {nasty: {"error_message": nasty, "fail_transient_pct": 5.0}},
    }
    steps = {nasty: result()["steps"]["Render"]}
    shown = page(environment=environment, steps=steps)
    assert shown.outside() == []
    assert shown.said.count(nasty) >= 5
    assert ["chaos: " + nasty, f"error_message {nasty}, fail_transient_pct 5"] in shown.table("What ran")


def test_a_run_in_which_nothing_ended_has_a_page() -> None:
    nothing: dict[str, list[float | None]] = {"p50": [None], "p95": [None], "p99": [None]}
    series = {
        "bucket_seconds": 0.01,
        "processes_per_second": [0.0],
        "commands_per_second": [0.0],
        "backlog": [0],
        **dict.fromkeys(report.LATENCIES, nothing),
    }
    assert "-" in page(series=series, steps={}, latency_ms={}, outcomes={}).said


@pytest.mark.parametrize(("highest", "top"), [(0, 1), (0.7, 0.8), (9.9, 10), (10, 10), (10.1, 15), (99_999, 100_000)])
def test_axes_go_to_a_round_value_above_all(highest: float, top: float) -> None:
    values = ticks(highest)
    assert values[0] == 0
    assert values[-1] == top
    assert len(values) <= 6


def test_labels_are_short_and_alike() -> None:
    assert [tick_label(value, 10_000) for value in (0, 2_500, 10_000)] == ["0", "2.5k", "10k"]
    assert [tick_label(value, 3_000) for value in (0, 0.5, 1_500)] == ["0", "0.5", "1,500"]
    assert stretch(3, 0.02) == "0.06 to 0.08 s"


def test_a_value_without_neighbours_is_seen() -> None:
    drawn = str(chart("x", "ms", [Line("p50", [None, 4.0, None], "a")], 1.0))
    (path,) = re.findall(r'class="line a" d="([^"]*)"', drawn)
    assert path == "M333.3 0.0L666.7 0.0"


def test_words_are_legible_in_the_light_and_in_the_dark() -> None:
    style = (html_report.FOLDER / "load_report.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    assert "prefers-color-scheme: dark" in style[: style.index(dark)]
    for theme in (light, dark):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", theme))
        for ink, paper in LEGIBLE:
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
        for look in "abc":  # lines
            assert contrast(colours[look], colours["paper"]) >= 3, look


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
