"""Where a result was made, and where it is kept."""

import json
import os
import platform
import timeit
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.environments import PEERS_LIST
from pytest_commandbus.postgres.server import EmbeddedPostgres

FOLDER = Path(__file__).parent / "results"
_SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "jit",
    "autovacuum",
)


def place() -> dict[str, Any]:
    """The machine, the versions, and the settings that every system's server has."""
    return {
        "machine": {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "load_before": round(os.getloadavg()[0], 2),
            "bare_loop_ms": _loop_ms(),
        },
        "versions": {
            "pytest-commandbus": version("pytest-commandbus"),
            "python": platform.python_version(),
            "psycopg": version("psycopg"),
            "peers": [line.partition(";")[0] for line in PEERS_LIST.read_text().splitlines() if "==" in line],
        },
        "server": _server(),
    }


def foot(about: dict[str, Any]) -> list[str]:
    """The same as lines, for the foot of the tables."""
    lines = [""]
    for title, facts in about.items():
        told = [f"{name} {', '.join(fact) if isinstance(fact, list) else fact}" for name, fact in facts.items()]
        lines.append(f"{title}: {'; '.join(told)}")
    return [*lines, "each measurement on a server of its own, with these settings for everyone, its data on disk"]


def keep(results: dict[str, Any], lines: list[str]) -> Path:
    """Write both under benchmarks/results, named by date and machine size; returns the JSON's path."""
    machine = results["machine"]
    name = f"{machine['date'][:16].replace(':', '')}Z-{machine['cores']}-cores"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.txt").write_text("\n".join(lines).lstrip() + "\n")
    return write(results, FOLDER / f"{name}.json")


def write(results: dict[str, Any], path: Path) -> Path:
    """Write the JSON there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path


def _loop_ms() -> float:
    """The least of five times of a bare loop of Python, in ms: how quick machine and interpreter are today."""
    loop = "for i in range(300_000): d[i % 100] = d.get(i % 100, 0) + 1"
    return round(min(timeit.repeat(loop, "d = {}", number=1, repeat=5)) * 1_000, 1)


def _server() -> dict[str, str]:
    with EmbeddedPostgres(durable=True) as server, psycopg.connect(server.dsn()) as conn:
        rows = conn.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)", (list(_SETTINGS),)
        )
        settings = dict(rows.fetchall())
        return {name: settings[name] for name in _SETTINGS} | {"data on": _filesystem(server.data)}


def _filesystem(path: Path) -> str:
    """The type of the file system that a path is on; unknown where there is no /proc."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except FileNotFoundError:
        return "unknown"
    over = [fields for fields in mounts if path.is_relative_to(fields[1])]
    return max(over, key=lambda fields: len(fields[1]))[2] if over else "unknown"
