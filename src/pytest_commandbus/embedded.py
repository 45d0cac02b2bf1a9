"""A PostgreSQL of its own for a program rather than a test: `with EmbeddedPostgres() as server: server.dsn()`."""

from .postgres.errors import PostgresError
from .postgres.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "PostgresError"]
