"""What an installed distribution promises: the plugin's entry point, the migrations, the types, the pinned set-up."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Build the wheel as CI does, and give it opened."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--wheel-dir", str(folder), str(REPOSITORY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return zipfile.Path(built)


def test_the_entry_point_is_spelled_as_the_module_so_that_p_and_autoload_register_once() -> None:
    entry_points = metadata.distribution("pytest-commandbus").entry_points.select(group="pytest11")
    assert [(entry.name, entry.value) for entry in entry_points] == [("pytest_commandbus", "pytest_commandbus")]


def test_the_console_script_is_the_command_line() -> None:
    scripts = metadata.distribution("pytest-commandbus").entry_points.select(group="console_scripts")
    assert {entry.name: entry.value for entry in scripts} == {"commandbus": "commandbus.cli:main"}


def test_the_wheel_ships_every_migration_unchanged(wheel: zipfile.Path) -> None:
    in_repository = {file.name: file.read_text() for file in (REPOSITORY / "migrations").glob("*.sql")}
    shipped = {
        entry.name: entry.read_text()
        for entry in (wheel / "commandbus" / "migrations").iterdir()
        if entry.name.endswith(".sql")
    }
    assert in_repository
    assert shipped == in_repository


def test_the_wheel_is_typed_and_holds_nothing_but_the_two_packages(wheel: zipfile.Path) -> None:
    assert (wheel / "commandbus" / "py.typed").is_file()
    assert (wheel / "pytest_commandbus" / "py.typed").is_file()
    top = {entry.name for entry in wheel.iterdir() if not entry.name.endswith(".dist-info")}
    assert top == {"commandbus", "pytest_commandbus"}


def test_every_direct_dependency_is_pinned_and_every_pin_is_exact() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = [*project["dependencies"], *extras["xdist"], *extras["hypothesis"], *extras["demo"], *extras["dev"]]
    direct = {re.split(r"[\[<>=;]", line)[0].strip().lower() for line in used} - {"pytest-commandbus"}
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line)] == []
    assert direct - {line.split("==")[0] for line in lines} == set()


def test_a_suite_that_does_not_use_the_plugin_does_not_load_the_driver() -> None:
    heavy = {"psycopg", "psycopg_pool", "pydantic", "rich"}
    code = f"import sys, pytest_commandbus; print(*sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
