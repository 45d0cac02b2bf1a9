"""What `commandbus worker` asks of its connections."""

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from commandbus.cli.serving import noticing_silence


@pytest.mark.parametrize(
    ("dsn", "given"),
    [
        ("host=db dbname=shop", {}),
        (
            "postgresql://db/shop?tcp_user_timeout=5&keepalives_idle=60",
            {"tcp_user_timeout": "5", "keepalives_idle": "60"},
        ),
    ],
)
def test_a_silent_network_is_noticed_unless_the_dsn_says_otherwise(dsn: str, given: dict[str, str]) -> None:
    parts = conninfo_to_dict(make_conninfo(dsn, **noticing_silence(dsn)))  # which libpq itself has read
    noticing = {
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "4",
        "tcp_user_timeout": "30000",
    }
    assert {name: str(parts[name]) for name in noticing} == noticing | given
