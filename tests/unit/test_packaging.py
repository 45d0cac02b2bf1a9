"""What an installed distribution promises: the plugin's entry point, the migrations, the types, the pinned set-up."""

import ast
import email
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
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and sdist as CI does; gives their folder."""
    folder = tmp_path_factory.mktemp("built")
    build(REPOSITORY, folder)
    return folder


def build(source: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheel(built: Path) -> zipfile.Path:
    [file] = built.glob("*.whl")
    return zipfile.Path(file)


@pytest.fixture(scope="session")
def sdist(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    [file] = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    # tarfile asks for a filter from 3.12 on, which 3.11.3 and before do not know
    subprocess.run(["tar", "-xf", str(file), "-C", str(folder)], check=True)
    [unpacked] = folder.iterdir()
    return unpacked


def contents(folder: Path) -> dict[str, bytes]:
    """What the one wheel in a folder holds, by name."""
    [file] = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def in_repository(folder: str) -> dict[str, bytes]:
    """The files of a folder that git keeps or would keep, by their path in the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", folder]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    else:  # a checkout without git
        files = [file for file in (REPOSITORY / folder).rglob("*") if "__pycache__" not in file.parts]
    return {str(file.relative_to(REPOSITORY)): file.read_bytes() for file in files if file.is_file()}


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


def test_the_wheel_ships_every_source_file_and_no_test(wheel: zipfile.Path) -> None:
    with zipfile.ZipFile(str(wheel).rstrip("/")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {name.removeprefix("src/") for name in in_repository("src")}
    migrations = {f"commandbus/{name}" for name in in_repository("migrations")}
    assert any(name.endswith("/schema/e2e.sql") for name in ours)
    assert names == ours | migrations
    assert [name for name in names if re.search(r"(^|/)(tests?|conftest|test_\w+)(/|\.py$)", name)] == []


def test_the_sdist_holds_sources_migrations_docs_and_what_a_reader_needs(sdist: Path) -> None:
    held = {str(file.relative_to(sdist)): file.read_bytes() for file in sdist.rglob("*") if file.is_file()}
    wanted = {name: text for folder in ("src", "migrations", "docs") for name, text in in_repository(folder).items()}
    wanted |= {name: (REPOSITORY / name).read_bytes() for name in ("README.md", "CHANGELOG.md", "LICENSE")}
    made = {"PKG-INFO", "pyproject.toml", ".gitignore"}  # what the build adds by itself
    assert held.keys() - made == wanted.keys()
    assert {name: held[name] for name in wanted} == wanted


def test_the_sdist_builds_the_same_wheel(built: Path, sdist: Path, tmp_path: Path) -> None:
    build(sdist, tmp_path)
    ours, again = contents(built), contents(tmp_path)
    assert again.keys() == ours.keys()
    assert [name for name in ours if again[name] != ours[name]] == []


def test_an_index_would_take_both_and_render_their_page(built: Path) -> None:
    files = [str(file) for file in sorted(built.iterdir())]
    assert len(files) == 2
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_metadata_says_what_it_is_for_and_which_extras_there_are(sdist: Path) -> None:
    told = email.message_from_string((sdist / "PKG-INFO").read_text())
    classifiers = told.get_all("Classifier")
    assert {"Framework :: Pytest", "Framework :: AsyncIO", "Typing :: Typed"} <= set(classifiers)
    assert (told["Requires-Python"], told["License-Expression"]) == (">=3.11", "MIT")
    assert set(told.get_all("Provides-Extra")) == {
        "xdist", "hypothesis", "container", "cluster", "demo", "web", "otel", "prometheus", "docs", "test", "dev",
    }  # fmt: skip
    for extra, needed in (("xdist", "pytest-xdist"), ("hypothesis", "hypothesis"), ("container", "testcontainers")):
        lines = [line for line in told.get_all("Requires-Dist") if line.endswith(f"extra == '{extra}'")]
        assert any(line.startswith(needed) for line in lines), extra


def test_every_declared_python_may_run_the_sources() -> None:
    """The tests run on one Python; what a later one took out of the standard library is looked for by name."""
    gone = {
        "asyncio.get_event_loop_policy", "asyncio.set_event_loop_policy",  # deprecated from 3.14 on
        "asyncio.iscoroutinefunction",  # deprecated from 3.14 on: inspect has it
        "datetime.utcnow", "datetime.utcfromtimestamp",  # deprecated from 3.12 on
        "pkg_resources", "imp",  # not there from 3.12 on
    }  # fmt: skip
    found = []
    for name, text in in_repository("src").items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(text, name, feature_version=(3, 11))):
            if isinstance(node, ast.Attribute):
                used = {f"{ast.unparse(node.value).rsplit('.', 1)[-1]}.{node.attr}"}
            elif isinstance(node, ast.Import):
                used = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used = {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Try):
                leaving = [child for last in node.finalbody for child in ast.walk(last)]
                used = {"return in finally" for child in leaving if isinstance(child, ast.Return)}
            else:
                continue
            found += [f"{name}, line {node.lineno}: {what}" for what in used & (gone | {"return in finally"})]
    assert found == []


def test_every_direct_dependency_is_pinned_and_every_pin_is_exact() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = [
        *project["dependencies"],
        *extras["xdist"],
        *extras["hypothesis"],
        *extras["demo"],
        *extras["test"],
        *extras["dev"],
    ]
    direct = {re.split(r"[\[<>=;]", line)[0].strip().lower() for line in used} - {"pytest-commandbus"}
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line)] == []
    assert direct - {line.split("==")[0] for line in lines} == set()


def test_a_suite_that_does_not_use_the_plugin_does_not_load_the_driver() -> None:
    heavy = {"psycopg", "psycopg_pool", "pydantic", "rich", "pytest_commandbus.report", "pytest_commandbus.compare"}
    code = f"import sys, pytest_commandbus; print(*sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_the_library_imports_no_driver_and_its_parts_no_extra() -> None:
    heavy = {"asyncio", "click", "fastapi", "jinja2", "psycopg", "psycopg_pool", "pydantic", "rich"}
    extras = {"opentelemetry", "prometheus_client", "fastapi"}
    code = f"""
import sys, commandbus
print(*sorted({heavy | extras} & set(sys.modules)), sep=",")
import commandbus.status, commandbus.handler, commandbus.migrate  # modules with a function of that name in the package
named = [getattr(commandbus, name) for name in commandbus.__all__]
print(*sorted({extras} & set(sys.modules)), sep=",")
print(*[commandbus.status.__name__, commandbus.handler.__name__, commandbus.migrate.__name__])
print(set(commandbus.__all__) == set(commandbus._MODULES), set(commandbus.__all__) <= set(dir(commandbus)))
try:
    commandbus.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "",
        "",
        "status handler migrate",
        "True True",
        "module 'commandbus' has no attribute 'nothing'",
    ]
