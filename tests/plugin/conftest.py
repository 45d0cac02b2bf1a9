"""The tests of the plugin: directly, on the fixtures that it gives, and through pytest runs of their own."""

import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# In-process runs forget the modules that they import first; extension modules must not be imported twice.
import pytest_commandbus.ending
import pytest_commandbus.factories
import pytest_commandbus.failure_report
import pytest_commandbus.load
import pytest_commandbus.process_batch
import pytest_commandbus.process_pool
import pytest_commandbus.template  # noqa: F401
from commandbus import App

from . import shop

SHOP = Path(shop.__file__)
_NOT = ("cacheprovider", "hypothesispytest", "schemathesis")  # what would write, or change what Hypothesis prints
STRICT = ("-W", "error", "--strict-markers", "--strict-config", *(f"-pno:{name}" for name in _NOT))
HEAD = """
import pytest
from shop import OrderProcess, StrangerProcess, app

@pytest.fixture
def cb_app():
    return app
"""


@pytest.fixture
def cb_app() -> App:
    return shop.app


class Suite:
    """A repository of its own that uses the plugin on the shop; its runs share the server of this run."""

    def __init__(self, pytester: pytest.Pytester, dsn: str) -> None:
        self.pytester = pytester
        self.dsn = dsn
        shutil.copy(SHOP, pytester.path / "shop.py")
        pytester.makepyprojecttoml('[tool.pytest.ini_options]\npythonpath = ["."]\n')

    def write(self, text: str, head: str = HEAD, **more: str) -> None:
        """Write test_it.py, after the usual head, and more modules by name."""
        self.pytester.makepyfile(test_it=head + textwrap.dedent(text), **more)

    def run(self, *arguments: str, embedded: bool = False) -> pytest.RunResult:
        """Run pytest in this process."""
        return self.pytester.runpytest_inprocess(*self._all(arguments, embedded))

    def run_process(self, *arguments: str, embedded: bool = False, plugin: bool = False) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        words = [sys.executable, "-m", "pytest", *(["-p", "pytest_commandbus"] if plugin else [])]
        return self.pytester.run(*words, *self._all(arguments, embedded))

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start pytest in a process of its own, to be killed."""
        words = [sys.executable, "-m", "pytest", *STRICT, *arguments]
        return self.pytester.popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def shell(self, line: str) -> pytest.RunResult:
        """Run a line as it stands, with the Python of this run first on the path."""
        folder = shlex.quote(str(Path(sys.executable).parent))
        return self.pytester.run("sh", "-c", f"PATH={folder}:$PATH {line}")

    def _all(self, arguments: tuple[str, ...], embedded: bool) -> list[str]:
        server = [] if embedded else [f"--cb-postgres={self.dsn}"]
        return [*STRICT, *server, *arguments]


@pytest.fixture
def suite(pytester: pytest.Pytester, cb_postgres: str) -> Suite:
    return Suite(pytester, cb_postgres)
