"""A server of these tests' own, on which nobody else makes databases."""

from collections.abc import Iterator

import pytest

from pytest_commandbus.postgres.admin import Admin
from pytest_commandbus.postgres.server import EmbeddedPostgres

from .database_kit import clean_admin


@pytest.fixture(scope="package")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def admin(server: EmbeddedPostgres) -> Iterator[Admin]:
    with clean_admin(server) as admin:
        yield admin
