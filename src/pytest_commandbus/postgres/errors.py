"""What can go wrong with the plugin's PostgreSQL."""


class PostgresError(Exception):
    """The PostgreSQL server that the tests need cannot be had; the message says what, where and how to mend it."""
