"""What a pytest run does around its load tests: skips them, shows their progress, gathers and tells their results.

Loaded with the plugin, so it imports no driver; what a load test needs is imported once there is one.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from . import xdist
from .run import RUN

if TYPE_CHECKING:
    from .compare import Earlier
    from .database import Database
    from .progress import Snapshot, Watch

SESSION = pytest.StashKey["LoadSession"]()
SKIP_REASON = "load test: run it with --cb-load (1,000 processes) or --cb-load=N (1 to 100,000)"


class LoadSession:
    """The load tests of this pytest process.

    results: of the runs that this process knows of, as dicts. stream: the terminal, None when nothing shall be shown.
    earlier: the report to compare with, None without one.
    """

    def __init__(self, stream: TextIO | None, earlier: Earlier | None) -> None:
        self.stream = stream
        self.earlier = earlier
        self.results: list[dict[str, Any]] = []
        self._watches: dict[str, Watch] = {}
        self._shards: Counter[str] = Counter()

    def publish(self, result: dict[str, Any]) -> None:
        """Take the result of a run."""
        self.results = xdist.merge([self.results, [result]])

    def merge(self, published: Iterable[Mapping[str, Any]]) -> None:
        """Take what an xdist worker published."""
        self.results = xdist.merge([self.results, published])

    def shard_begins(self, test: str, database: Callable[[], Database]) -> None:
        """Watch a load test from its first shard on."""
        self._shards[test] += 1
        if test not in self._watches and self.stream is not None:
            self._watches[test] = start_watch(test, database, self.stream)

    def shard_ends(self, test: str) -> None:
        """Stop watching when none of its shards runs."""
        self._shards[test] -= 1
        if self._shards[test] <= 0 and test in self._watches:
            self._watches.pop(test).stop()

    def close(self) -> None:
        """Stop all watches, and let the terminal go."""
        for watch in self._watches.values():
            watch.stop()
        self._watches.clear()
        if self.stream is not None and self.stream is not sys.stdout:
            self.stream.close()
        self.stream = None


def start(config: pytest.Config) -> None:
    """Check the report paths, read the earlier report, and make the session's state. Errors: pytest.UsageError."""
    options = config.stash[RUN].options
    earlier = _read_earlier(config) if options.reports or options.compare is not None else None
    config.stash[SESSION] = LoadSession(_stream(config), earlier)
    if config.stash[SESSION].stream is not None:
        config.pluginmanager.register(ShardWatcher(config), "commandbus-shard-watcher")


def _read_earlier(config: pytest.Config) -> Earlier | None:
    """Check the report paths, and read the earlier report, if there is one to compare with."""
    from . import report
    from .compare import CompareError, read_earlier

    options = config.stash[RUN].options
    try:
        for path in options.reports:
            report.check_report_path(str(path))
        if options.compare is not None and not hasattr(config, "workerinput"):
            return read_earlier(options.compare, report.FORMAT)
    except (report.ReportError, CompareError) as error:
        raise pytest.UsageError(str(error)) from None
    return None


def end(config: pytest.Config) -> None:
    """End what the session holds."""
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()


def skip_load_tests(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Skip the load tests of a run that did not ask for them, and say how to."""
    if config.stash[RUN].options.load is None:
        for item in items:
            if item.get_closest_marker("load") is not None:
                item.add_marker(pytest.mark.skip(reason=SKIP_REASON))


class ShardWatcher:
    """A plugin of the controller or only process, which learns when the items of a load test begin and end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lock = threading.Lock()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Watch a load test from the first of its shards on; what pytest told before comes before its progress."""
        self._config.get_terminal_writer().flush()
        if xdist.is_shard(nodeid):
            test = xdist.without_shard(nodeid)
            self._config.stash[SESSION].shard_begins(test, lambda: self._database(test))

    def _database(self, test: str) -> Database:
        with self._lock:
            return self._config.stash[RUN].databases().shared(test)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Watch it no longer once the last one that ran has ended."""
        if xdist.is_shard(nodeid):
            self._config.stash[SESSION].shard_ends(xdist.without_shard(nodeid))


@contextmanager
def watching(config: pytest.Config, nodeid: str, database: Database) -> Iterator[None]:
    """Without xdist: show how the load test of this name goes."""
    session = config.stash[SESSION]
    session.shard_begins(nodeid, lambda: database)
    try:
        yield
    finally:
        session.shard_ends(nodeid)


def publish_from_worker(config: pytest.Config) -> None:
    """On an xdist worker: hand its results to the controller."""
    workeroutput: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput[xdist.PUBLISHED] = config.stash[SESSION].results


def take_from_worker(node: Any) -> None:
    """On the controller: take what a worker that ended has published; one that crashed has nothing."""
    output: Mapping[str, Any] = getattr(node, "workeroutput", {})
    node.config.stash[SESSION].merge(output.get(xdist.PUBLISHED, ()))


def summarize(config: pytest.Config, terminal: pytest.TerminalReporter) -> None:
    """Tell the results at the end of the run, and write the reports."""
    results, earlier = config.stash[SESSION].results, config.stash[SESSION].earlier
    paths = config.stash[RUN].options.reports
    if not results:
        for path in paths:
            terminal.write_line(f"commandbus: {path} was not written: no load test ran to its end", yellow=True)
        if earlier is not None:
            terminal.write_line(f"commandbus: nothing to compare with {earlier.path}: no load test ran", yellow=True)
        return
    from . import report

    terminal.write_sep("=", "commandbus load")
    for result in results:
        for line in report.terminal_lines(result, earlier):
            terminal.write_line(line)
    for path in paths:
        try:
            report.write_report(path, results, earlier)
            terminal.write_line(f"report: {path}")
        except report.ReportError as error:
            terminal.write_line(str(error), red=True)


def start_watch(test: str, database: Callable[[], Database], stream: TextIO) -> Watch:
    """Show the newest run of the load test that has this database."""
    from .progress import Watch, make_display

    look = _Look(database)
    watch = Watch(test.rpartition("::")[2], look, make_display(stream), done=look.close)
    watch.start()
    return watch


class _Look:
    """Reads the progress of the newest load run, on a connection of its own."""

    def __init__(self, database: Callable[[], Database]) -> None:
        self._database = database
        self._connection: Any = None

    def __call__(self) -> Snapshot | None:
        import psycopg

        from .load_sql import PROGRESS
        from .progress import Snapshot

        if self._connection is None:
            self._connection = psycopg.connect(self._database().dsn, autocommit=True, application_name="cb-progress")
        row = self._connection.execute(PROGRESS).fetchone()
        return None if row is None else Snapshot(*row)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()


def _stream(config: pytest.Config) -> TextIO | None:
    """Where progress is shown: on the terminal of the controller or only process, unless -q asked for silence."""
    quiet = config.get_verbosity() < 0 or not config.pluginmanager.has_plugin("terminal")
    if quiet or config.stash[RUN].options.load is None or hasattr(config, "workerinput"):
        return None
    from .progress import terminal_stream

    return terminal_stream()
