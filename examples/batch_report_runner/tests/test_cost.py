"""What a batch costs: the tiers' boundaries, exact decimals, the file of rates."""

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from batch_report_runner.cost import CENT, RateBook, quote, read_rates
from batch_report_runner.errors import RatesError, Refused
from batch_report_runner.settings import Settings
from hypothesis import given
from hypothesis import strategies as st

SHIPPED = json.loads(Settings().rates.read_text())
RATES = read_rates(SHIPPED)["v1"]
PROVIDERS = [*RATES.providers, None, "unheard-of"]
COUNTS = st.dictionaries(st.sampled_from(PROVIDERS), st.integers(0, 250), min_size=1).filter(
    lambda counts: 1 <= sum(counts.values()) <= 1000
)


@pytest.mark.parametrize(
    ("count", "percent", "total"),
    [
        (1, 0, "0.60"),
        (100, 0, "60.00"),
        (101, 10, "54.54"),
        (500, 10, "270.00"),
        (501, 20, "240.48"),
        (1000, 20, "480.00"),
    ],
)
def test_the_tiers_at_their_boundaries(count: int, percent: int, total: str):
    found = quote(RATES, {None: count})
    assert (found.discount_pct, found.total) == (percent, Decimal(total))


@pytest.mark.parametrize(("count", "code"), [(0, "NO_LEADS"), (1001, "TOO_MANY_LEADS"), (-1, "NEGATIVE")])
def test_counts_that_cannot_be_quoted(count: int, code: str):
    with pytest.raises(Refused) as refused:
        quote(RATES, {"acme": count})
    assert refused.value.code == code


@given(COUNTS)
def test_the_breakdown_adds_up_to_cents(counts: dict[str | None, int]):
    found = quote(RATES, counts)
    assert sum(cost for _, cost in found.breakdown.values()) == found.total
    assert sum(leads for leads, _ in found.breakdown.values()) == found.count
    assert found.total == found.total.quantize(CENT)
    exact = sum(found.unit_costs.get(name or "", found.unit_costs[""]) * n for name, n in counts.items())
    assert abs(found.total - exact) <= Decimal("0.005") * len(counts)
    assert found.low <= found.total <= found.high
    assert abs(found.average * found.count - found.total) <= Decimal("0.00005") * found.count


@given(st.integers(1, 999), st.sampled_from(PROVIDERS))
def test_within_a_tier_more_leads_cost_more(count: int, provider: str | None):
    fewer, more = (quote(RATES, {provider: n}) for n in (count, count + 1))
    assert fewer.discount_pct != more.discount_pct or fewer.total < more.total


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"base_cost": 0.1}, "base_cost: write it as text"),
        ({"base_cost": "-0.10"}, "base_cost: -0.10 is out of range"),
        ({"base_cost": "NaN"}, "out of range"),
        ({"blended_rate": "cheap"}, "'cheap' is no number"),
        ({"providers": {"acme": "-1"}}, "providers.acme: -1 is out of range"),
        ({"providers": None}, "providers is missing"),
        ({"tiers": []}, "tiers: at least one"),
        ({"tiers": [{"up_to": 5, "discount_pct": "0"}, {"up_to": 5, "discount_pct": "1"}]}, "tiers: at least one"),
        ({"tiers": [{"up_to": "5", "discount_pct": "0"}]}, r"tiers\[0\].up_to"),
        ({"tiers": [{"up_to": 5, "discount_pct": "101"}]}, "101 is out of range"),
        ({"templates": {}}, "there are none"),
    ],
)
def test_rates_that_make_no_sense(change: dict, problem: str):
    with pytest.raises(ValueError, match=problem):
        read_rates(SHIPPED | change)


def test_rates_that_are_no_object():
    with pytest.raises(ValueError, match="a JSON object"):
        read_rates([])


def test_a_template_version_has_rates_of_its_own():
    assert quote(read_rates(SHIPPED)["v2"], {"acme": 10}).total == Decimal("7.40")
    assert quote(RATES, {"acme": 10}).total == Decimal("5.90")


class CountedPath(type(Path())):
    """A path that counts how often it is read."""

    reads = 0

    def read_text(self, *args, **more) -> str:
        CountedPath.reads += 1
        return super().read_text(*args, **more)


def test_rates_are_kept_and_read_anew_when_they_change_or_are_old(tmp_path):
    now, path = [0.0], CountedPath(tmp_path / "rates.json")
    path.write_text(json.dumps(SHIPPED))
    book, CountedPath.reads = RateBook(path, ttl=300, clock=lambda: now[0]), 0
    assert book.rates("v1") == RATES
    now[0] = 299
    assert book.rates("v1") == RATES
    assert CountedPath.reads == 1
    now[0] = 301
    book.rates("v1")
    assert CountedPath.reads == 2

    path.write_text(json.dumps(SHIPPED | {"base_cost": "9.99"}))
    os.utime(path, ns=(1, 1))  # whatever the file system's clock has for steps
    assert book.rates("v1").base_cost == Decimal("9.99")
    path.write_text("{")
    with pytest.raises(RatesError, match=r"rates\.json"):
        book.rates("v1")
    path.unlink()
    with pytest.raises(RatesError, match="cannot be read"):
        book.versions()
