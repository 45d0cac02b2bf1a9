"""Every code block of docs/ runs: a page is followed in a folder of its own, and what no test can run says why.

CONTRIBUTING.md tells authors the rules.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from commandbus import migrate
from pytest_commandbus.postgres.dsn import with_database

from .documents import Block, read_blocks
from .reader import (
    SECONDS,
    SHOP_DATABASE,
    TEST_SERVER,
    Reader,
    functions_of,
    plain_environment,
    write_file,
)

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINKED = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "examples" / "README.md", *PAGES]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture
def database(cb_postgres: str) -> Iterator[str]:
    """The page's own database, migrated."""
    name = f"cb_docs_{os.getpid()}"
    with psycopg.connect(cb_postgres, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            dsn = with_database(cb_postgres, name)
            migrate(dsn)
            yield dsn
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tutorial's shop and configuration, without its tests."""
    place = tmp_path / "page"
    place.mkdir()
    for block in read_blocks(README):
        if block.file_name and not block.file_name.startswith("test_"):
            write_file(place, block)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_does_what_its_text_says(page: Path, folder: Path, database: str, cb_postgres: str):
    follow(page, folder, database, cb_postgres)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```sh\nmake demo\n```\n", "a sh block is not run"),
        ("```python\nprint(1)\n```\n", "a python block is not run"),
        ("```python\n# lonely.py\nprint(1)\n```\n", "nothing runs, imports or names lonely.py"),
        ("```ini\n# proxy.ini\nmode = 1\n```\n", "nothing runs, imports or names proxy.ini"),
        ("```python\n# test_it.py\ndef test_it():\n    assert False\n```\n", "1 failed"),
        ("```python\n# test_it.py\nimport pytest\n\n@pytest.mark.skip\ndef test_it():\n    pass\n```\n", "test_it"),
        ("```console\n$ echo 1\n2\n```\n", "page.md:2: not found: '2'"),
        ("```console\n$ echo 1\n```\n", "page.md:2: not shown: '1'"),
        ("```console\n$ sh -c 'exit 1' &\n$ kill %1\n```\n", "it must end by SIGTERM with 0"),
        ("```sql\nSELECT nothing\n```\n", "page.md:2: column"),
    ],
)
def test_a_page_that_does_not_fails(
    text: str, problem: str, tmp_path: Path, folder: Path, database: str, cb_postgres: str
):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=re.escape(problem)):
        follow(page, folder, database, cb_postgres)


def test_an_id_that_a_page_shows_is_known_to_its_later_commands(
    tmp_path: Path, folder: Path, database: str, cb_postgres: str
):
    shown, other = "01a20266-21d0-70ba-8dde-a258c2de6a9e", "01a20266-21d0-70ba-8dde-a258c2de6a9f"
    page = tmp_path / "page.md"
    blocks = (
        f"```python\n# tell.py\nprint('made', '{other}')\n```\n",
        f"```console\n$ python tell.py\nmade {shown}\n$ test {shown} = {other} && echo equal\nequal\n```\n",
        "```ini\n# proxy.ini\nmode = 1\n```\n",
        "```console\n$ cat \\\n    proxy.ini\n...\nmode = …\n```\n",
        "<!-- not run: no such machine -->\n```sh\nmake demo\n```\n",
    )
    page.write_text("".join(blocks))
    follow(page, folder, database, cb_postgres)


def follow(page: Path, folder: Path, database: str, cb_postgres: str) -> None:
    """Follow a page from top to bottom, then run its tests; fails at the first thing that is not as it says."""
    servers = {TEST_SERVER: cb_postgres, SHOP_DATABASE: database}
    environment = plain_environment() | {"CB_POSTGRES": cb_postgres, "COMMANDBUS_DSN": database}
    reader = Reader(folder, servers, environment)
    files: list[Path] = []
    try:
        for block in read_blocks(page):
            where = f"{page.name}:{block.line}"
            if block.why_not_run is None:
                if block.file_name is not None:
                    files.append(write_file(folder, block, servers))
                elif block.language == "console":
                    reader.follow_block(block, page)
                elif block.language == "sql":
                    try_statements(block, database, where)
                elif block.language == "json":
                    json.loads(block.text)
                else:
                    kind = block.language or "nameless"
                    assert kind == "text", f"{where}: a {kind} block is not run; see CONTRIBUTING.md"
        tests = [file for file in files if file.name.startswith("test_") and file.suffix == ".py"]
        run_tests([file for file in tests if not functions_of([file]) <= reader.tests_run()], reader, environment)
    finally:
        ended = reader.stop()
    assert reader.tests_run() == functions_of(tests)
    for code, output in ended:
        assert code == 0, f"{page.name}: in the background it must end by SIGTERM with 0, not {code}\n{output}"
    for file in files:
        assert was_used(file, page, reader), f"{page.name}: nothing runs, imports or names {file.name}"


def try_statements(block: Block, database: str, where: str) -> None:
    """Run SQL on the page's database, and take it back."""
    with psycopg.connect(database) as connection:
        try:
            connection.execute(block.text.encode())
        except psycopg.Error as error:
            pytest.fail(f"{where}: {error}")
        connection.rollback()


def run_tests(files: Sequence[Path], reader: Reader, environment: dict[str, str]) -> None:
    """Run the page's tests that no command has run, all in one strict run, load tests with a few processes."""
    if not files:
        return
    options = "-p pytest_commandbus -W error --strict-markers --strict-config --cb-load=20"
    run = subprocess.run(
        ["pytest", *shlex.split(options), f"--junitxml={reader.results}/end.xml", *map(str, files)],
        cwd=reader.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def was_used(file: Path, page: Path, reader: Reader) -> bool:
    """Whether a file is a test or configuration, was imported, or is named by a command or another block."""
    name = str(file.relative_to(reader.folder))
    if file.name.startswith("test_") or file.name in {"pyproject.toml", "conftest.py"}:
        return True
    if list((file.parent / "__pycache__").glob(f"{file.stem}.*.pyc")):
        return True
    others = [block.text for block in read_blocks(page) if block.file_name != name]
    folder = name.partition("/")[0]
    said = reader.commands if file.suffix == ".py" else [*reader.commands, *others]
    return any(name in text or (folder != name and folder in text) for text in said)


@pytest.mark.slow
def test_what_is_no_test_suits_strict_type_checks(tmp_path: Path):
    """Pages whose files do not differ share a folder: most of a check is reading the library's types."""
    folders: list[dict[str, Block]] = []
    for page in (README, *PAGES):
        blocks = [block for document in (README, page) for block in read_blocks(document) if block.language == "python"]
        files = {name: block for block in blocks if not (name := block.file_name or "").startswith("test_")}
        fitting = [known for known in folders if all(known.get(n, b).text == b.text for n, b in files.items())]
        folders.extend([] if fitting else [{}])
        (fitting or folders)[-1].update(files)
    for number, files in enumerate(folders):
        folder = tmp_path / str(number)
        for block in files.values():
            write_file(folder, block)
        line = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "."]
        run = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert run.returncode == 0, f"one of {[*files]}\n{run.stdout}"
    assert any(len(files) > 1 for files in folders)


@pytest.mark.parametrize("document", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", document.read_text(encoding="utf-8")):
        file = (document.parent / target) if target else document
        assert file.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{document.name} links to {target}#{anchor}"


def test_every_page_is_on_the_map():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "index.md" or f"({name})" in index or f"({name}#" in index, f"docs/index.md lacks {name}"


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub spells them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"<!--.*?-->", "", h)).strip().lower().replace(" ", "-") for h in headings}
