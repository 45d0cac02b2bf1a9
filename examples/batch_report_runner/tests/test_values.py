"""What is pure: the throttle, tokens, limits, settings, the error report."""

import csv
import io
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from batch_report_runner import tokens
from batch_report_runner.api import error_report
from batch_report_runner.errors import Refused, TokenError
from batch_report_runner.handlers import report_path
from batch_report_runner.limits import RateLimit, SocketLimit
from batch_report_runner.settings import Settings
from batch_report_runner.throttle import Throttle
from batch_report_runner.upkeep import final_status
from batch_report_runner.watching import described
from hypothesis import given
from hypothesis import strategies as st

BATCH = UUID(int=7)


def test_the_throttle_at_its_limits():
    throttle = Throttle(at_most=1.0, at_least=2.0)
    assert throttle.is_due(0.0, changed=False)  # the first message comes at once
    assert not throttle.is_due(0.999, changed=True)
    assert throttle.is_due(1.0, changed=True)
    assert not throttle.is_due(2.999, changed=False)
    assert throttle.is_due(3.0, changed=False)
    assert throttle.is_due(3.001, changed=False, ended=True)  # the end never waits


@given(st.lists(st.tuples(st.floats(0.01, 0.5), st.booleans()), min_size=1, max_size=300))
def test_no_throttle_talks_too_much_or_falls_silent(looks: list[tuple[float, bool]]):
    throttle, now, told = Throttle(1.0, 2.0), 0.0, []
    for step, changed in looks:
        now += step
        if throttle.is_due(now, changed=changed):
            told.append(now)
    gaps = [later - sooner for sooner, later in pairwise(told)]
    assert all(1.0 <= gap < 2.5 + 1e-9 for gap in gaps)  # a look may be half a second late
    assert now - told[-1] < 2.0


def test_a_token_is_good_for_one_batch_one_user_and_a_while():
    token = tokens.issue("secret", BATCH, "ann", 100.0)
    assert tokens.check("secret", token, BATCH, 99.9) == "ann"
    with pytest.raises(TokenError, match="expired"):
        tokens.check("secret", token, BATCH, 100.0)
    with pytest.raises(TokenError, match="another batch"):
        tokens.check("secret", token, uuid4(), 0)
    body, _, signature = token.partition(".")
    forged = tokens.issue("guess", BATCH, "ann", 1e12)
    for wrong in (forged, "", body, f"{body}.", f".{signature}", f"{forged.partition('.')[0]}.{signature}", "\udcff.x"):
        with pytest.raises(TokenError, match="not signed"):
            tokens.check("secret", wrong, BATCH, 0)


def test_calls_in_a_sliding_minute():
    now = [0.0]
    limit = RateLimit("starts", 2, lambda: now[0])
    limit.take("ann")
    now[0] = 20
    limit.take("ann")
    limit.take("bob")
    with pytest.raises(Refused) as refused:
        limit.take("ann")
    assert (refused.value.status, refused.value.retry_after) == (429, 40)
    now[0] = 60
    limit.take("ann")
    with pytest.raises(Refused):
        RateLimit("starts", 0).take("ann")


def test_open_sockets_are_counted_by_user():
    limit = SocketLimit(1)
    assert (limit.open("ann"), limit.open("ann"), limit.open("bob"), limit.count) == (True, False, True, 2)
    limit.close("ann")
    assert limit.open("ann")


def test_settings_from_the_environment():
    found = Settings.from_env(
        {
            "ENABLE_BATCH_PROCESSING": "off",
            "BATCH_USERS": "ann:t1,bob:t2",
            "BATCH_DAILY_BUDGET": "12.50",
            "BATCH_PARALLEL": "7",
            "BATCH_DATA": "/data",
            "BATCH_CORS_ORIGINS": "https://a.example,https://b.example",
            "BATCH_PROVIDER_LATENCY": "0.5",
        }
    )
    assert (found.enabled, found.users, found.parallel) == (False, {"t1": "ann", "t2": "bob"}, 7)
    assert (found.daily_budget, found.data, found.provider_latency) == (Decimal("12.50"), Path("/data"), 0.5)
    assert found.cors_origins == ("https://a.example", "https://b.example")
    for variable, text in [("ENABLE_BATCH_PROCESSING", "maybe"), ("BATCH_PARALLEL", "x"), ("BATCH_USERS", "ann"),
                           ("BATCH_DAILY_BUDGET", "much")]:  # fmt: skip
        with pytest.raises(ValueError, match=f"{variable}='{text}'"):
            Settings.from_env({variable: text})


@given(st.text(max_size=40))
def test_no_cell_of_the_error_report_is_a_formula_or_lost(text: str):
    rows = [{"lead_id": 1, "name": text, "status": "FAILED", "attempts": 3, "code": None, "message": text}]
    written = error_report(rows)
    _, line = csv.reader(io.StringIO(written, newline=""))
    assert line[1].lstrip("'") == text.lstrip("'")
    assert not line[1].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert line[4] == ""


def test_a_report_is_below_its_folder():
    with pytest.raises(ValueError, match="invalid literal"):
        report_path(Path("/reports"), BATCH, "../../etc/passwd")  # type: ignore[arg-type]
    assert report_path(Path("/reports"), BATCH, 3) == Path(f"/reports/{BATCH}/3.pdf")


@pytest.mark.parametrize(
    ("ending", "failed", "cancelled", "status"),
    [
        (None, 0, 0, "COMPLETED"),
        (None, 1, 0, "COMPLETED_WITH_ERRORS"),
        ("cancelled", 1, 5, "CANCELLED"),
        ("cancelled", 0, 0, "COMPLETED"),
        ("time limit", 0, 1, "FAILED"),
        ("rollback", 0, 1, "CANCELLED"),
    ],
)
def test_final_states(ending: str | None, failed: int, cancelled: int, status: str):
    assert final_status(ending, {"failed": failed, "cancelled": cancelled})[0] == status


def test_progress_in_words():
    batch = {"batch_id": BATCH, "status": "PROCESSING", "elapsed": 10.0}
    told = described(batch, {"succeeded": 18, "failed": 2, "cancelled": 0, "total": 100}, [], "Ada Adler")
    assert (told["processed"], told["percentage"], told["leads_per_second"]) == (20, 20, 2)
    assert told["remaining_seconds"] == 40
    none = {"succeeded": 0, "failed": 0, "cancelled": 0, "total": 100}
    assert described(batch, none, [], None)["remaining_seconds"] is None
    assert described(batch | {"elapsed": 0.0}, none, [], None)["leads_per_second"] == 0
