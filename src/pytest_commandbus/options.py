"""The options and ini keys of the plugin: declared, read and checked here."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

LOAD_MINIMUM, LOAD_MAXIMUM, LOAD_DEFAULT = 1, 100_000, 1_000
SEED_MAXIMUM = 2**63 - 1
POSTGRES_KINDS = ("embedded", "container")


class Options(NamedTuple):
    """What the user asked for, by command line, environment and ini, in that order of precedence.

    postgres: "embedded", "container" or the DSN of a server; container_image: what the container is of. seed: None
    when not given (then one is drawn). load: processes of a load test, None when load tests are not enabled. reports:
    files to write the load report to. app: "package.module:attribute" or "". migrations: folders of the users' own
    migrations. chaos: the profile over the whole run, None without one. compare: an earlier
    load report, None without one. cluster: the address of the Dask scheduler for the workers of load tests.
    """

    postgres: str
    durable: bool
    seed: int | None
    load: int | None
    reports: tuple[Path, ...]
    keep: bool
    app: str
    migrations: tuple[Path, ...]
    chaos: str | None = None
    container_image: str = "postgres:18"
    compare: Path | None = None
    cluster: str | None = None

    @property
    def is_dsn(self) -> bool:
        """Tell whether `postgres` names a server by its DSN."""
        return self.postgres not in POSTGRES_KINDS


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and ini key of the plugin."""
    group = parser.getgroup("commandbus", "commandbus: end-to-end, chaos and load tests")
    group.addoption(
        "--cb-postgres",
        metavar="embedded|container|DSN",
        help="PostgreSQL for the tests: 'embedded' (the default) starts one of its own, 'container' one in Docker, "
        "a DSN uses a running server",
    )
    group.addoption(
        "--cb-durable",
        action="store_true",
        help="put the run's own PostgreSQL on disk, with fsync and full_page_writes on",
    )
    group.addoption(
        "--cb-seed",
        type=whole_number("--cb-seed", 0, SEED_MAXIMUM),
        metavar="N",
        help="seed of every chaos roll: the same seed, the same outcomes (drawn when not given; failed tests show it)",
    )
    group.addoption(
        "--cb-chaos",
        metavar="PROFILE",
        help="put a chaos profile over the whole run: a table [tool.commandbus.chaos.PROFILE] of pyproject.toml",
    )
    group.addoption(
        "--cb-load",
        nargs="?",
        type=whole_number("--cb-load", LOAD_MINIMUM, LOAD_MAXIMUM),
        const=LOAD_DEFAULT,
        metavar="N",
        help=f"run the tests marked load, each with N processes, {LOAD_MINIMUM} to {LOAD_MAXIMUM} "
        f"({LOAD_DEFAULT} when bare)",
    )
    group.addoption(
        "--cb-cluster",
        metavar="ADDRESS",
        type=_cluster_address,
        help="run the workers of load tests on the Dask cluster with this scheduler, such as tcp://host:8786",
    )
    group.addoption(
        "--cb-report",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="write the load report to PATH (.json or .html); may be repeated",
    )
    group.addoption(
        "--cb-compare",
        type=Path,
        metavar="PATH",
        help="tell how the load tests changed against an earlier .json report",
    )
    group.addoption(
        "--cb-keep", action="store_true", help="keep the databases of failed tests and print a psql line for each"
    )
    _add_ini_keys(parser)


def _add_ini_keys(parser: pytest.Parser) -> None:
    parser.addini("cb_postgres", "the default of --cb-postgres: embedded, container or a DSN", default="")
    parser.addini("cb_container_image", "the image of --cb-postgres=container", default="postgres:18")
    parser.addini("cb_app", 'the App under test: "package.module:attribute"', default="")
    parser.addini(
        "cb_migrations", "folders of your own migrations, applied after those of the bus", type="paths", default=[]
    )


def read_options(config: pytest.Config) -> Options:
    """Return the options of this run. Errors: pytest.UsageError, naming the option and what it takes."""
    postgres = (
        config.getoption("--cb-postgres") or os.environ.get("CB_POSTGRES") or config.getini("cb_postgres") or "embedded"
    )
    if postgres not in POSTGRES_KINDS and "=" not in postgres and "://" not in postgres:
        raise pytest.UsageError(
            f"--cb-postgres (or CB_POSTGRES, or ini cb_postgres): {postgres!r} is neither 'embedded', 'container' "
            'nor a DSN such as "postgresql://user@localhost/postgres" or "host=localhost user=me"'
        )
    if config.getoption("--cb-cluster") and config.getoption("--cb-load") is None:
        raise pytest.UsageError("--cb-cluster is where the workers of load tests run: give --cb-load=N beside it")
    return Options(
        postgres=postgres,
        durable=config.getoption("--cb-durable"),
        seed=config.getoption("--cb-seed"),
        load=config.getoption("--cb-load"),
        reports=tuple(config.getoption("--cb-report")),
        keep=config.getoption("--cb-keep"),
        app=config.getini("cb_app"),
        migrations=tuple(config.getini("cb_migrations")),
        chaos=config.getoption("--cb-chaos"),
        container_image=config.getini("cb_container_image") or "postgres:18",
        compare=config.getoption("--cb-compare"),
        cluster=config.getoption("--cb-cluster"),
    )


def _cluster_address(text: str) -> str:
    if not re.fullmatch(r"(tcp|tls|ucx|ws|wss)://(\[[^\]]+\]|[^:/\s]+):\d+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no scheduler's address: write --cb-cluster=tcp://HOST:8786, as `dask scheduler` prints it"
        )
    return text


def whole_number(option: str, minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number: write {option}=N with N from {minimum} to {maximum}, "
                "and test paths before it"
            ) from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is out of range: N goes from {minimum} to {maximum}")
        return value

    return parse
