"""What a load run tells at its end, from figures alone."""

import json
from pathlib import Path

import pytest

from pytest_commandbus import report
from pytest_commandbus.compare import Earlier
from tests.unit.load_results import result


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
    assert line(lines, "latency").split(maxsplit=3)[3].split() == ["waiting", "handling", "end", "to", "end"]
    assert line(lines, "p50").split() == ["p50", "p95", "p99"] * 3
    render = "Render 0.10 0.20 0.30 1.23 12.3 1,234.5 400.0 500.0 2,000.0"
    assert line(lines, "Render").split() == render.split()
    attempts = lines[lines.index("  outcomes of attempts") + 1]
    assert attempts.split(maxsplit=1) == ["Render", "COMPLETED 9,700, RETRY_SCHEDULED 41, MOVED_TO_TSQ 300"]
    assert (
        line(lines, "processes").split(maxsplit=1)[1] == "p50 900.0, p95 1,000.5, p99 4,100.0 ms from creation to end"
    )
    assert line(lines, "retries").split(maxsplit=1)[1] == "41; in troubleshooting 300; peak backlog 10,000"


def test_one_is_not_told_as_many() -> None:
    environment = {**result()["environment"], "mismatches": 1}
    lines = report.terminal_lines(result(processes=1, shards=1, workers=1, environment=environment))
    assert lines[0] == "tests/test_a.py::test_reports: 1 process, 1 shard, 1 worker, seed 42"
    assert "NOT EQUAL: 1 process ended" in line(lines, "oracle")


def test_the_section_says_what_each_latency_is() -> None:
    lines = report.terminal_lines(result())
    for name, what in report.LATENCIES.values():
        assert f"    ({name} {what})" in lines


def test_columns_stand_under_their_heads() -> None:
    lines = report.terminal_lines(result())
    assert line(lines, "outcomes").index("actual") + len("actual") == line(lines, "COMPLETED").index("9,700") + 5
    assert line(lines, "p50").rindex("p99") + 3 == line(lines, "Render").index("2,000.0") + 7
    assert line(lines, "latency").index("handling") == line(lines, "Render").index("0.30") + len("0.30") + 3


def test_thresholds_are_told_with_figure_and_limit() -> None:
    thresholds = [
        {"name": "p99_ms", "limit": 500, "figure": 1234.5, "passed": False, "step": "Render"},
        {"name": "min_per_second", "limit": 10.5, "figure": 2500.0, "passed": True},
    ]
    lines = report.terminal_lines(result(thresholds=thresholds))
    assert line(lines, "p99_ms").split(maxsplit=2)[1:] == ["BROKEN", "1,234.5 ms in Render  at most 500 ms"]
    told = "min_per_second met 2,500 processes/s at least 10.5 processes/s"
    assert line(lines, "min_per_second").split() == told.split()
    assert dict(report.junit_properties(result(thresholds=thresholds)))["cb_load_threshold_p99_ms"] == (
        "broken: 1,234.5 ms in Render, at most 500 ms"
    )


def test_the_change_against_an_earlier_report_is_told() -> None:
    earlier = Earlier(Path("old.json"), [result(processes_per_second=2000.0, seed=7, retries=0)])
    lines = report.terminal_lines(result(), earlier)
    below = lines[lines.index("  against old.json of 2026-05-01 10:00:00 UTC") :]
    assert below[1] == "    not the same: seed 7 before, 42 now"
    assert line(below, "processes").split() == ["processes", "2,000/s", "2,500/s", "+500/s", "+25.0", "better"]
    assert line(below, "retries").split() == ["retries", "0", "41", "+41", "new", "worse"]
    assert line(below, "peak backlog").split()[-1] == "same"
    other = Earlier(Path("old.json"), [result(environment={**result()["environment"], "test": "another"})])
    assert (
        report.terminal_lines(result(), other)[-1] == "  against old.json: it has no run of this test to compare with"
    )


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
    document = json.loads(path.read_text())
    assert document["format"] == report.FORMAT
    assert [each["seed"] for each in document["tests"]] == [42, 43]


@pytest.mark.parametrize("name", ["report.xlsx", "report", "json"])
def test_an_unknown_extension_is_refused_and_the_valid_ones_named(name: str) -> None:
    with pytest.raises(report.ReportError, match=r"unknown; use \.json or \.html"):
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


def test_junit_gets_every_figure_and_a_second_run_names_of_its_own() -> None:
    properties = dict(report.junit_properties(result()))
    assert properties["cb_load_processes_per_second"] == "2500.0"
    assert properties["cb_load_outcome_WAITING_FOR_TSQ"] == "300"
    assert properties["cb_load_p99_ms"] == "4100.0"
    assert properties["cb_load_Render_p99_ms"] == "2000.0"
    assert properties["cb_load_Render_handling_p99_ms"] == "1234.5"
    assert properties["cb_load_Render_waiting_p50_ms"] == "0.1"
    second = dict(report.junit_properties(result(environment={**result()["environment"], "run": 2})))
    assert second["cb_load2_seed"] == "42"
    assert not second.keys() & properties.keys()
