"""What the plugin costs a test suite: loading it, starting its server, a database for each test.

Run it alone with `python -m benchmarks.plugin`.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pytest_commandbus.postgres.server import EmbeddedPostgres

_ROOT = Path(__file__).parent.parent
_TESTS = 200
_NOTHING = "def test_nothing() -> None:\n    pass\n"
_DATABASES = """
import psycopg, pytest

@pytest.mark.parametrize("number", range(TESTS))
def test_alone(number, cb_database):
    with psycopg.connect(cb_database.dsn) as conn:
        assert conn.execute("SELECT count(*) FROM commandbus.command").fetchone() == (0,)
"""


def suite_seconds() -> float:
    """Seconds of a whole suite of 200 tests, each with a fresh database, server included."""
    return _pytest(_DATABASES.replace("TESTS", str(_TESTS)), "pytest_commandbus")


def loading_ms(repetitions: int = 15) -> dict[str, list[float]]:
    """Milliseconds of CPU time that the plugin adds to a suite that does not use it, pair by pair.

    `alone`: to one that has pytest-asyncio, which loads asyncio. `with pytest-asyncio`: to one that has neither.
    """
    ours, theirs = "pytest_commandbus", "pytest_asyncio.plugin"
    _cpu_seconds(theirs, ours)  # compiled then
    found: dict[str, list[float]] = {"alone": [], "with pytest-asyncio": []}
    for _ in range(repetitions):
        both, plain, nothing = _cpu_seconds(theirs, ours), _cpu_seconds(theirs), _cpu_seconds()
        found["alone"].append(1e3 * (both - plain))
        found["with pytest-asyncio"].append(1e3 * (both - nothing))
    return found


def _cpu_seconds(*plugins: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _pytest(_NOTHING, *plugins)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def server_seconds(repetitions: int = 5) -> dict[str, list[float]]:
    """Seconds until the embedded server answers: with an empty cache (cold), and with its files made before (warm)."""
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    before = os.environ.get("XDG_CACHE_HOME")
    try:
        for _ in range(repetitions):
            with tempfile.TemporaryDirectory() as cache:
                os.environ["XDG_CACHE_HOME"] = cache
                for kind in ("cold", "warm"):
                    began = time.perf_counter()
                    with EmbeddedPostgres():
                        found[kind].append(time.perf_counter() - began)
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before
    return found


def _pytest(text: str, *plugins: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_it.py").write_text(text)
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        # Not by -p, which searches all that is installed for each plugin again.
        asked = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": ",".join(plugins)}
        environment = {**os.environ, **asked, "PYTHONPATH": str(_ROOT / "src")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody's suite compiles its plugins each time
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"the suite failed\n{done.stdout[-2_000:]}")
    return seconds


def main() -> None:
    """Measure and print."""
    for kind, found in server_seconds().items():
        print(f"embedded server, {kind}: {statistics.median(found):.3f} s ({min(found):.3f} to {max(found):.3f})")
    for kind, found in loading_ms().items():
        print(f"loading it {kind}, CPU: {statistics.median(found):.1f} ms ({min(found):.1f} to {max(found):.1f})")
    print(f"{_TESTS} tests with a database each: {suite_seconds():.1f} s")


if __name__ == "__main__":
    main()
