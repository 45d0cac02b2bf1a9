"""A batch from the preview to the reports, through the API, with real workers."""

import io
from decimal import Decimal

from pypdf import PdfReader


async def test_reports_are_made_and_paid_once(site, cb_worker_pool, cb_pool):
    async with cb_worker_pool(workers=1, concurrency=10), site.client() as client:
        begun = await site.start(120)
        ended = await site.until(begun["batch_id"])
        assert (ended["status"], ended["succeeded"], ended["failed"]) == ("COMPLETED", 120, 0)
        assert (ended["percentage"], ended["remaining_seconds"], ended["current_lead"]) == (100, 0, None)
        quoted, actual = Decimal(ended["quoted_cost"]), Decimal(ended["actual_cost"])
        assert abs(actual - quoted) <= quoted * Decimal("0.05")

        page = (await client.get(f"/api/batch/{begun['batch_id']}/leads?limit=100")).json()
        rest = (await client.get(f"/api/batch/{begun['batch_id']}/leads?cursor={page['next_cursor']}")).json()
        assert rest["next_cursor"] is None
        leads = page["items"] + rest["items"]
        assert [lead["lead_id"] for lead in leads] == list(range(1, 121))
        pdf = await client.get(leads[0]["report_url"])
        assert pdf.headers["content-type"] == "application/pdf"
        (only,) = PdfReader(io.BytesIO(pdf.content)).pages
        text = only.extract_text()
        assert leads[0]["name"] in text
        assert "Orders by month" in text
        assert len([1 for line in only.get_contents().get_data().splitlines() if line.endswith(b" re f")]) == 12  # bars

        history = (await client.get(f"/api/batch/{begun['batch_id']}/history")).json()
        assert [history[-1][name] for name in ("succeeded", "failed")] == [120, 0]  # the last is taken at the end
        assert [at["seconds"] for at in history] == sorted(at["seconds"] for at in history)
        (listed,) = (await client.get("/api/batches")).json()
        assert listed["batch_id"] == begun["batch_id"]
    async with cb_pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT (SELECT count(*) FROM report.charge), (SELECT count(DISTINCT lead_id) FROM report.charge),"
            " (SELECT count(*) FROM report.document), (SELECT count(DISTINCT lead_id) FROM report.document)"
        )
        assert await cursor.fetchone() == (120, 120, 120, 120)
