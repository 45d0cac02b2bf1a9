"""A real PgBouncer that pools transactions, in front of a server; None where the program is not installed."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_STARTS = 30.0  # seconds

_CONFIG = """
[databases]
* = host={host} port={port} user={user}

[pgbouncer]
pool_mode = transaction
unix_socket_dir = {folder}
unix_socket_mode = 0777
listen_addr =
auth_type = any
default_pool_size = {size}
max_client_conn = 200
logfile =
pidfile =
"""


@contextmanager
def pooling(dsn: str, size: int) -> Iterator[str]:
    """Run a PgBouncer with at most `size` sessions in front of the database; gives the DSN that leads through it."""
    if PROGRAM is None:
        raise FileNotFoundError("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    server = conninfo_to_dict(dsn)
    folder = Path(tempfile.mkdtemp(prefix="cb-pgb-"))
    folder.chmod(0o777)
    config = folder / "pgbouncer.ini"
    user = server.get("user") or "postgres"
    port = server.get("port", "5432")
    config.write_text(_CONFIG.format(host=server["host"], port=port, user=user, folder=folder, size=size))
    owner = pwd.getpwuid(Path(server["host"]).stat().st_uid).pw_name  # whoever may look into the server's directory
    run_as = ("-u", owner) if os.geteuid() == 0 else ()  # it refuses to be root
    process = subprocess.Popen([PROGRAM, "-q", *run_as, str(config)], stderr=subprocess.PIPE, text=True)
    try:
        through = make_conninfo(dsn, host=str(folder), port="6432")
        _wait_for(process, through)
        yield through
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_STARTS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(process: subprocess.Popen[str], dsn: str) -> None:
    deadline = monotonic() + _STARTS
    while True:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError as error:
            if process.poll() is not None:
                raise AssertionError(f"pgbouncer ended: {process.communicate()[1]}") from error
            if monotonic() > deadline:
                raise
            sleep(0.02)
        else:
            return
