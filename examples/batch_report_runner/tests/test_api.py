"""What the API takes and refuses."""

import asyncio
import dataclasses
import json
from decimal import Decimal
from uuid import uuid4

import psycopg
import pytest
from batch_report_runner.rows import check_quickly, single
from conftest import ANN, BOB, serving
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

ASKED = {"lead_ids": [1, 2, 3], "template_version": "v1"}


def code(response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_leads_are_filtered_and_paged(site):
    async with site.client() as client:
        found, cursor = [], ""
        while cursor is not None:
            query = {"status": "new", "tier": "B", "from": "2026-01-10", "to": "2026-02-10", "limit": 7}
            page = (await client.get("/api/leads", params=query | {"cursor": cursor})).raise_for_status().json()
            found += page["items"]
            cursor = page["next_cursor"]
        assert len(found) == page["total"] > 7
        assert {(lead["status"], lead["tier"]) for lead in found} == {("new", "B")}
        one_day = (await client.get("/api/leads", params={"from": "2026-01-10", "to": "2026-01-10"})).json()
        assert one_day["total"] == 16  # every 90 minutes one
        assert all("2026-01-10" <= lead["created_at"][:10] <= "2026-02-10" for lead in found)
        assert len({lead["lead_id"] for lead in found}) == len(found)
        everything = (await client.get("/api/leads", params={"status": "", "from": "", "limit": 1000})).json()
        assert (len(everything["items"]), everything["total"]) == (1000, 1200)
        for wrong in ({"status": "gone"}, {"tier": "D"}, {"from": "yesterday"}, {"cursor": "1 OR 1=1"}, {"limit": 0}):
            assert code(await client.get("/api/leads", params=wrong)) == (422, "INVALID")


async def test_a_preview_is_a_quote_that_is_kept(site, cb_pool):
    async with site.client() as client:
        quote = (await client.post("/api/batch/preview", json=ASKED | {"lead_ids": list(range(1, 102))})).json()
        assert (quote["lead_count"], quote["discount_pct"], quote["currency"]) == (101, "10", "USD")
        total = Decimal(quote["total_cost"])
        assert sum(Decimal(part["cost"]) for part in quote["breakdown"]) == total
        assert {part["provider"] for part in quote["breakdown"]} == {"acme", "clearview", "northstar", "not known yet"}
        assert Decimal(quote["cost_low"]) < total < Decimal(quote["cost_high"])
        assert quote["duration_seconds"] > 0
        assert (quote["warning"], quote["can_start"]) == (None, True)
    async with cb_pool.connection() as conn:
        cursor = await conn.execute("SELECT owner, lead_count, total FROM report.quote")
        assert await cursor.fetchall() == [("ann", 101, total)]


async def test_what_cannot_be_started(site, cb_pool):
    async with site.client() as client:
        for change, expected in [
            ({"lead_ids": []}, (422, "INVALID")),
            ({"lead_ids": list(range(1, 1002))}, (422, "INVALID")),
            ({"lead_ids": [1, 1]}, (422, "INVALID")),
            ({"lead_ids": [1, 10**18]}, (422, "NO_SUCH_LEAD")),
            ({"lead_ids": [10**18]}, (422, "NO_SUCH_LEAD")),
            ({"lead_ids": [2**63]}, (422, "INVALID")),
            ({"template_version": "v9"}, (422, "UNKNOWN_TEMPLATE")),
            ({"accepted_cost": "0.01"}, (409, "COST_CHANGED")),
            ({"accepted_cost": "-1"}, (422, "INVALID")),
            ({"unknown": 1}, (422, "INVALID")),
        ]:
            response = await client.post("/api/batch/start", json=ASKED | {"accepted_cost": "1.80"} | change)
            assert code(response) == expected, change
    async with cb_pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT (SELECT count(*) FROM report.batch), (SELECT count(*) FROM commandbus.batch)"
        )
        assert await cursor.fetchone() == (0, 0)


HOSTILE = ["1; DROP TABLE report.lead; --", "' OR '1'='1", "1) UNION SELECT 1 --", "<script>alert(1)</script>", "1.0",
           "\x00", "٣", "-1", "0x10", "NaN"]  # fmt: skip


async def test_hostile_lead_ids_change_nothing(site, cb_pool):
    async with site.client() as client:
        for hostile in [*HOSTILE, 0, -1, 1.5, True, None, [1], {"a": 1}]:
            response = await client.post("/api/batch/preview", json=ASKED | {"lead_ids": [hostile]})
            assert code(response) == (422, "INVALID"), hostile
        for hostile in HOSTILE[:5]:
            assert (await client.get(f"/api/batch/{hostile}/status")).status_code in (404, 422)
            assert (await client.get(f"/api/batch/{uuid4()}/reports/{hostile}.pdf")).status_code in (404, 422)
        assert (await client.post("/api/batch/preview", content=b"{")).status_code == 422
        assert (await client.get(f"/api/batch/{uuid4()}/reports/..%2f..%2fetc%2fpasswd.pdf")).status_code in (404, 422)
    async with cb_pool.connection() as conn:
        assert (await (await conn.execute("SELECT count(*) FROM report.lead")).fetchone())[0] == 1200


async def test_users_see_their_own_batches_only(site):
    begun = await site.start(2)
    path = f"/api/batch/{begun['batch_id']}"
    paths = [f"{path}/{name}" for name in ("status", "leads", "history", "errors.csv", "reports/1.pdf")]
    async with site.client(BOB) as bob, site.client(None) as nobody, site.client("guess") as stranger:
        for look in paths:
            assert code(await bob.get(look)) == (404, "NO_SUCH_BATCH")
            assert code(await nobody.get(look)) == (401, "NO_USER")
            assert code(await stranger.get(look)) == (401, "NO_USER")
        assert code(await bob.post(f"{path}/cancel")) == (404, "NO_SUCH_BATCH")
        assert (await bob.get("/api/batches")).json() == []
    async with site.client() as ann:
        assert code(await ann.get(f"{path}/reports/1.pdf")) == (404, "NO_SUCH_REPORT")
        assert (await ann.get("/api/templates")).json() == ["v1", "v2"]
        await ann.post(f"{path}/cancel")


async def test_pages_need_a_login_and_no_other_site_may_use_it(site):
    async with site.client(None) as client:
        assert (await client.get("/")).headers["location"] == "/login"
        assert (await client.post("/login", data={"token": "guess"})).status_code == 401
        foreign = {"origin": "https://evil.example"}
        assert (await client.post("/login", data={"token": ANN}, headers=foreign)).status_code == 403
        entered = await client.post("/login", data={"token": ANN}, headers={"origin": site.url})
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        page = await client.get("/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert (await client.get("/batches")).status_code == 200
        missing = await client.get(f"/batches/{uuid4()}")
        assert missing.status_code == 404
        assert "there is no batch" in missing.text
        assert code(await client.post("/api/batch/preview", json=ASKED, headers=foreign)) == (403, "FOREIGN_ORIGIN")
        assert (await client.post("/api/batch/preview", json=ASKED, headers={"origin": site.url})).status_code == 200
        left = await client.post("/logout")
        assert left.headers["location"] == "/login"


async def test_limits_by_user_say_when_to_come_again(settings, leads_dsn):
    tight = dataclasses.replace(settings, previews_per_minute=3, starts_per_minute=1)
    async with serving(tight, leads_dsn) as site, site.client() as ann, site.client(BOB) as bob:
        answers = [await ann.post("/api/batch/preview", json=ASKED) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert (await bob.post("/api/batch/preview", json=ASKED)).status_code == 200
        starts = [await bob.post("/api/batch/start", json=ASKED | {"accepted_cost": "0"}) for _ in range(2)]
        assert [answer.status_code for answer in starts] == [409, 429]
        text = (await ann.get("/metrics")).text
        assert 'report_requests_refused_total{code="TOO_MANY"} 2.0' in text
        assert "report_websocket_connections 0.0" in text


async def test_the_daily_budget_and_its_alerts(settings, leads_dsn, cb_pool):
    poor = dataclasses.replace(settings, daily_budget=Decimal("10"))
    async with serving(poor, leads_dsn) as site, site.client() as client:
        await site.start(14)
        asked = ASKED | {"lead_ids": list(range(20, 40))}
        quote = (await client.post("/api/batch/preview", json=asked)).json()
        assert (quote["warning"], quote["can_start"]) == ("the daily budget would be exceeded", False)
        refused = await client.post("/api/batch/start", json=asked | {"accepted_cost": quote["total_cost"]})
        assert code(refused) == (409, "OVER_BUDGET")
        assert 'report_budget_alerts_total{level="80"} 1.0' in (await client.get("/metrics")).text
    async with cb_pool.connection() as conn:
        cursor = await conn.execute("SELECT level FROM report.budget_alert")
        assert await cursor.fetchall() == [(80,)]
        cursor = await conn.execute("SELECT payload FROM commandbus.command WHERE command_type = 'SendMail'")
        ((mail,),) = await cursor.fetchall()
        assert mail["subject"] == "Budget at 80 %"


async def test_two_starts_cannot_both_have_the_last_of_the_budget(settings, leads_dsn):
    poor = dataclasses.replace(settings, daily_budget=Decimal("2"))
    async with serving(poor, leads_dsn) as site, site.client() as client:
        quote = (await client.post("/api/batch/preview", json=ASKED)).json()
        asked = ASKED | {"accepted_cost": quote["total_cost"]}
        answers = await asyncio.gather(*(client.post("/api/batch/start", json=asked) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]


async def test_starting_can_be_switched_off(settings, leads_dsn):
    async with serving(dataclasses.replace(settings, enabled=False), leads_dsn) as site, site.client() as client:
        quote = (await client.post("/api/batch/preview", json=ASKED)).json()
        assert quote["can_start"] is False
        refused = await client.post("/api/batch/start", json=ASKED | {"accepted_cost": quote["total_cost"]})
        assert code(refused) == (503, "SWITCHED_OFF")
        assert refused.headers["retry-after"] == "60"


async def test_rates_that_cannot_be_read_are_said_so(settings, leads_dsn, tmp_path):
    lost = dataclasses.replace(settings, rates=tmp_path / "none.json")
    async with serving(lost, leads_dsn) as site, site.client() as client:
        assert code(await client.post("/api/batch/preview", json=ASKED)) == (503, "NO_RATES")


async def test_no_body_is_too_large_and_other_sites_are_let_in_by_name(settings, leads_dsn):
    small = dataclasses.replace(settings, max_body=500, cors_origins=("https://crm.example",))
    async with serving(small, leads_dsn) as site, site.client() as client:
        asked = json.dumps(ASKED | {"lead_ids": list(range(1, 400))}).encode()
        assert code(await client.post("/api/batch/preview", content=asked)) == (413, "TOO_LARGE")

        async def pieces():
            for at in range(0, len(asked), 100):
                yield asked[at : at + 100]

        assert code(await client.post("/api/batch/preview", content=pieces())) == (413, "TOO_LARGE")
        answer = await client.get("/api/templates", headers={"origin": "https://crm.example"})
        assert answer.headers["access-control-allow-origin"] == "https://crm.example"
        other = await client.get("/api/templates", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_a_pool_that_is_used_up_is_told_not_waited_for(settings, leads_dsn):
    async with serving(settings, leads_dsn) as site, site.client() as client:
        pool = site.state.pool
        pool.timeout = 0.2
        held = [await pool.getconn(timeout=30) for _ in range(pool.max_size)]
        busy = await client.get("/api/batches")
        assert code(busy) == (503, "BUSY")
        assert busy.headers["retry-after"] == "2"
        for conn in held:
            await pool.putconn(conn)
        assert (await client.get("/healthz")).text == "ok"


async def test_connections_come_back_as_they_were_lent_and_one_that_was_ended_is_known(settings, leads_dsn, cb_pool):
    async with serving(settings, leads_dsn, pool_size=2) as site:
        async with single(site.state.pool) as one, single(site.state.pool) as other:
            assert (one.autocommit, other.autocommit) == (True, True)
        async with site.state.pool.connection() as one, site.state.pool.connection() as other:
            assert (one.autocommit, other.autocommit) == (False, False)
    async with await psycopg.AsyncConnection.connect(leads_dsn) as held, cb_pool.connection() as conn:
        await check_quickly(held)
        ended = await conn.execute("SELECT pg_terminate_backend(%s, 60000)", (held.info.backend_pid,))
        assert await ended.fetchone() == (True,)
        with pytest.raises(psycopg.OperationalError):
            await check_quickly(held)


@given(st.text(max_size=30))
@hypothesis_settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
def test_any_token_is_nobody_s_or_a_user_s(text):
    from batch_report_runner.access import user_of
    from batch_report_runner.settings import Settings

    assert user_of(Settings(users={ANN: "ann"}), text) == ("ann" if text == ANN else None)
