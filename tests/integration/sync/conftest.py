"""The blocking bus on a database of the test's own, which the auditor looks at afterwards."""

from collections.abc import Iterator

import pytest

from commandbus.sync import SyncCommandBus, connect

from .sync_kit import audited, make_app


@pytest.fixture
def dsn(e2e_dsn: str) -> Iterator[str]:
    with audited(e2e_dsn) as dsn:
        yield dsn


@pytest.fixture
def bus(dsn: str) -> Iterator[SyncCommandBus]:
    with connect(dsn, app=make_app(), max_size=4) as bus:
        yield bus
