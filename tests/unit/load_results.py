"""The result of a load run, as a dict, for tests of what is told of it."""

from typing import Any


def result(**changes: Any) -> dict[str, Any]:
    """Return a result whose figures fit each other, but for the changes."""
    figures: dict[str, Any] = {
        "format": 1,
        "seed": 42,
        "processes": 10_000,
        "shards": 2,
        "workers": 4,
        "created_seconds": 0.5,
        "run_seconds": 4.0,
        "total_seconds": 5.25,
        "processes_per_second": 2500.0,
        "commands_per_second": 7350.5,
        "latency_ms": {"p50": 900.0, "p95": 1000.5, "p99": 4100.0},
        "outcomes": {"COMPLETED": 9_700, "WAITING_FOR_TSQ": 300},
        "steps": {
            "Render": {
                "outcomes": {"COMPLETED": 9_700, "RETRY_SCHEDULED": 41, "MOVED_TO_TSQ": 300},
                "waiting_ms": {"p50": 0.1, "p95": 0.2, "p99": 0.3},
                "handling_ms": {"p50": 1.234, "p95": 12.34, "p99": 1234.5},
                "latency_ms": {"p50": 400.0, "p95": 500.0, "p99": 2000.0},
            }
        },
        "retries": 41,
        "in_troubleshooting": 300,
        "peak_backlog": 10_000,
        "thresholds": [],
        "environment": {
            "test": "tests/test_a.py::test_reports",
            "run": 1,
            "started_at": "2026-05-01 10:00:00 UTC",
            "skipped_seconds": 370,
            "predicted": {"COMPLETED": 9_700, "WAITING_FOR_TSQ": 300},
            "mismatches": 0,
        },
        "series": {
            "bucket_seconds": 2.0,
            "processes_per_second": [0.0, 1000.0, 4000.0],
            "commands_per_second": [0.0, 5000.0, 9700.0],
            "backlog": [10_000, 10_000, 2_000],
            "waiting_ms": {"p50": [None, 0.1, 0.2], "p95": [None, 0.2, 0.2], "p99": [None, 0.3, 0.3]},
            "handling_ms": {"p50": [None, 1.0, 2.0], "p95": [None, 9.0, 14.0], "p99": [None, 800.0, 1300.0]},
            "latency_ms": {"p50": [None, 300.0, 400.0], "p95": [None, 500.0, 600.0], "p99": [None, 1000.0, 2100.0]},
        },
    }
    return {**figures, **changes}
