"""What a load run tells at its end, from figures alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_commandbus import report


def result(**changes: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "seed": 42,
        "processes": 10_000,
        "shards": 2,
        "workers": 4,
        "created_seconds": 0.5,
        "run_seconds": 4.0,
        "total_seconds": 5.25,
        "processes_per_second": 2500.0,
        "commands_per_second": 7350.5,
        "outcomes": {"COMPLETED": 9_700, "WAITING_FOR_TSQ": 300},
        "steps": {
            "Render": {
                "outcomes": {"COMPLETED": 9_700, "RETRY_SCHEDULED": 41, "MOVED_TO_TSQ": 300},
                "latency_ms": {"p50": 1.234, "p95": 12.34, "p99": 1234.5},
            }
        },
        "retries": 41,
        "in_troubleshooting": 300,
        "peak_backlog": 10_000,
        "thresholds": [],
        "environment": {
            "test": "tests/test_a.py::test_reports",
            "run": 1,
            "skipped_seconds": 370,
            "predicted": {"COMPLETED": 9_700, "WAITING_FOR_TSQ": 300},
            "mismatches": 0,
        },
    }
    return {**figures, **changes}


def line(lines: list[str], beginning: str) -> str:
    return next(text for text in lines if text.strip().startswith(beginning))


def test_the_section_names_the_test_and_all_its_figures() -> None:
    lines = report.terminal_lines(result())
    assert lines[0] == "tests/test_a.py::test_reports: 10,000 processes, 2 shards, 4 workers, seed 42"
    assert line(lines, "created").split(maxsplit=1)[1] == "0.50 s, 20,000 processes/s"
    assert line(lines, "run").split(maxsplit=1)[1] == "4.00 s, 2,500 processes/s, 7,350 commands/s; 5.25 s in all"
    assert line(lines, "time skipped").endswith("6 min 10 s")
    assert line(lines, "COMPLETED").split() == ["COMPLETED", "9,700", "9,700"]
    assert line(lines, "WAITING_FOR_TSQ").split() == ["WAITING_FOR_TSQ", "300", "300"]
    assert line(lines, "latency").split()[3:6] == ["p50", "p95", "p99"]
    assert line(lines, "Render").split(maxsplit=4) == [
        "Render",
        "1.23",
        "12.3",
        "1,234.5",
        "COMPLETED 9,700, RETRY_SCHEDULED 41, MOVED_TO_TSQ 300",
    ]
    assert line(lines, "retries").split(maxsplit=1)[1] == "41; in troubleshooting 300; peak backlog 10,000"


def test_one_is_not_told_as_many() -> None:
    environment = {**result()["environment"], "mismatches": 1}
    lines = report.terminal_lines(result(processes=1, shards=1, workers=1, environment=environment))
    assert lines[0] == "tests/test_a.py::test_reports: 1 process, 1 shard, 1 worker, seed 42"
    assert "NOT EQUAL: 1 process ended" in line(lines, "oracle")


def test_the_section_says_what_latency_is() -> None:
    lines = report.terminal_lines(result())
    told = line(lines, "(latency: from the claim of an attempt to its outcome, waiting in the worker included)")
    assert lines.index(told) == lines.index(line(lines, "Render")) + 1


def test_columns_stand_under_their_heads() -> None:
    lines = report.terminal_lines(result())
    assert line(lines, "outcomes").index("actual") + len("actual") == line(lines, "COMPLETED").index("9,700") + 5
    assert line(lines, "latency").index("p99") + 3 == line(lines, "Render").index("1,234.5") + 7


def test_equality_with_the_oracle_is_told() -> None:
    assert "equal: every process" in line(report.terminal_lines(result()), "oracle")


def test_a_difference_from_the_oracle_is_told_with_samples() -> None:
    environment = {
        **result()["environment"],
        "predicted": {"COMPLETED": 9_699, "CANCELED": 301},
        "mismatches": 2,
        "mismatch_samples": ["process 7: predicted CANCELED, was COMPLETED"],
    }
    lines = report.terminal_lines(result(environment=environment))
    assert "NOT EQUAL: 2 processes ended" in line(lines, "oracle")
    assert "    process 7: predicted CANCELED, was COMPLETED" in lines
    assert line(lines, "CANCELED").split() == ["CANCELED", "0", "301"]


def test_without_a_prediction_the_reason_is_told_and_the_column_is_gone() -> None:
    environment = {"test": "t", "run": 1, "predicted": None, "not_predicted": "the path depends on results"}
    lines = report.terminal_lines(result(environment=environment))
    assert line(lines, "oracle").endswith("no prediction: the path depends on results")
    assert line(lines, "COMPLETED").split() == ["COMPLETED", "9,700"]
    assert line(lines, "time skipped").endswith("none")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.416, "0.42 s"), (12.34, "12.3 s"), (119.96, "120.0 s"), (125, "2 min 5 s"), (4980, "1 h 23 min")],
)
def test_durations_read_well(value: float, text: str) -> None:
    assert report.seconds(value) == text


def test_no_time_gives_no_rate() -> None:
    assert report.rate(10, 0) == 0
    assert report.rate(10, 4) == 2.5


def test_the_json_report_of_one_load_test_is_its_result(tmp_path: Path) -> None:
    path = tmp_path / "made" / "here" / "report.json"
    report.write_report(path, [result()])
    assert json.loads(path.read_text()) == result()
    assert tuple(json.loads(path.read_text())) == report.RESULT_KEYS


def test_the_json_report_of_several_load_tests_lists_them(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report.write_report(path, [result(), result(seed=43)])
    assert [each["seed"] for each in json.loads(path.read_text())["tests"]] == [42, 43]


@pytest.mark.parametrize("name", ["report.xlsx", "report", "json"])
def test_an_unknown_extension_is_refused_and_the_valid_ones_named(name: str) -> None:
    with pytest.raises(report.ReportError, match=r"unknown; use \.json"):
        report.check_report_path(name)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "dir.json"
    folder.mkdir()
    with pytest.raises(report.ReportError, match="is a directory; name a file"):
        report.check_report_path(str(folder))


def test_a_path_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(report.ReportError, match=r"report\.json: cannot be written: "):
        report.write_report(blocked / "report.json", [result()])


def test_junit_gets_every_figure() -> None:
    properties = dict(report.junit_properties(result()))
    assert properties["cb_load_processes_per_second"] == "2500.0"
    assert properties["cb_load_outcome_WAITING_FOR_TSQ"] == "300"
    assert properties["cb_load_Render_p99_ms"] == "1234.5"
