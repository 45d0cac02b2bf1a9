"""What the bus and the plugin cost beside the work: idle, asked, in a test suite."""

from benchmarks import idle, plugin, reads
from benchmarks.tables import spread, table


def report(*, quick: bool) -> list[str]:
    """Measure, and give the lines of a table."""
    idling = idle.cores(20.0 if quick else 60.0)
    rows = [[f"an idle worker of two domains, its {who}, % of a core", f"{share:.2f}"] for who, share in idling.items()]
    stored = 100_000 if quick else 1_000_000
    asked = reads.milliseconds(stored)
    rows += [[f"{what}, {stored:,} commands stored, ms", spread(found, 1)] for what, found in asked.items()]
    servers = plugin.server_seconds()
    rows += [[f"embedded server, {kind}, s", spread(found, 3)] for kind, found in servers.items()]
    rows += [[f"loading the plugin unused, {kind}, ms of CPU", spread(f, 1)] for kind, f in plugin.loading_ms().items()]
    rows.append(["200 tests with a fresh database each, s", f"{plugin.suite_seconds():.1f}"])
    return table("beside the work", ("what", "median (least to most)"), rows)
