"""Options, ini keys and cb_app: what is accepted, and how misuse is told."""

import pytest

from .conftest import Suite

USES_APP = "async def test_it(cb_process_batch):\n    pass\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cb-load=100001", "*--cb-load: 100001 is out of range: N goes from 1 to 100000*"),
        ("--cb-load=0", "*--cb-load: 0 is out of range: N goes from 1 to 100000*"),
        ("--cb-load=many", "*--cb-load: 'many' is not a whole number: write --cb-load=N with N from 1 to 100000*"),
        ("--cb-seed=abc", "*--cb-seed: 'abc' is not a whole number*"),
        ("--cb-seed=-1", "*--cb-seed: -1 is out of range*"),
        ("--cb-postgres=mysql", "*--cb-postgres*'mysql' is neither 'embedded', 'container' nor a DSN such as *"),
    ],
)
def test_a_wrong_option_says_what_it_takes(suite: Suite, option: str, message: str):
    suite.write("def test_it():\n    pass\n", head="")
    result = suite.run(option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_the_environment_and_the_ini_name_a_server(suite: Suite, cb_postgres: str, monkeypatch: pytest.MonkeyPatch):
    suite.write("def test_it(cb_postgres):\n    assert 'from_the' in cb_postgres\n", head="")
    suite.run("-o", f"cb_postgres={cb_postgres} application_name=from_the_ini", embedded=True).assert_outcomes(passed=1)
    monkeypatch.setenv("CB_POSTGRES", f"{cb_postgres} application_name=from_the_environment")
    suite.run("-o", "cb_postgres=container", embedded=True).assert_outcomes(passed=1)


def test_migrations_of_the_user_are_applied_too(suite: Suite):
    folder = suite.pytester.mkdir("billing")
    (folder / "V001__invoices.sql").write_text("CREATE TABLE invoice (id integer)")
    suite.write(
        """
        async def test_it(cb_pool):
            async with cb_pool.connection() as connection:
                await connection.execute("INSERT INTO invoice VALUES (1)")
        """
    )
    suite.run("-o", "cb_migrations=billing").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        (
            "nowhere.bus:app",
            "*cb_app = 'nowhere.bus:app': importing 'nowhere.bus' failed with ModuleNotFoundError*pythonpath*",
        ),
        ("shop", "*cb_app = 'shop': write it as \"package.module:attribute\"*"),
        ("shop:application", "*cb_app = 'shop:application': 'shop' has no 'application'*"),
        ("shop:Step", "*cb_app = 'shop:Step' is EnumType, not a commandbus.App*"),
        ("", "*no cb_app is given: name it in the configuration*or override the fixture cb_app in a conftest.py*"),
    ],
)
def test_an_app_that_cannot_be_had_says_how(suite: Suite, ini: str, message: str):
    suite.write(USES_APP, head="")
    result = suite.run("-o", f"cb_app={ini}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_the_ini_names_the_app(suite: Suite):
    suite.write(
        """
        from shop import OrderProcess

        async def test_it(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, processes=True)
            await batch.complete()
        """,
        head="",
    )
    suite.run("-o", "cb_app=shop:app").assert_outcomes(passed=1)


def test_a_fixture_that_returns_no_app_is_told(suite: Suite):
    suite.write("@pytest.fixture\ndef cb_app():\n    return 42\n" + USES_APP)
    result = suite.run()
    result.stdout.fnmatch_lines(["*what the fixture cb_app returns is int, not a commandbus.App*"])


def test_worker_processes_need_an_app_that_they_can_import(suite: Suite):
    suite.write(
        """
        from commandbus import App

        @pytest.fixture
        def cb_app():
            made = App()
            made.add_process(OrderProcess)
            return made

        async def test_it(cb_process_batch):
            await cb_process_batch(OrderProcess, processes=True)
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*UsageError: worker processes must import the App under test by path*cb_app = *"])


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('cb_database("module")', '*the marker cb_database takes scope=*@pytest.mark.cb_database(scope="module")*'),
        ('cb_database(scope="world")', "*cb_database takes scope=, one of function, class, module, package, session*"),
        (
            "load(real=True)",
            "*the marker load does not know 'real': it takes real_time, p99_ms, min_per_second, max_failed_pct, max_*",
        ),
        (
            "load(real_time=1, p99_ms=-1, max_seconds=True, max_failed_pct=101)",
            "*real_time=1 is neither *; p99_ms=-1 is not a number of ms, from 0 up; max_seconds=True is not*; max_*",
        ),
        ("cb_no_audit(1)", "*the marker cb_no_audit takes no arguments*"),
    ],
)
def test_a_wrong_marker_is_a_usage_error_at_collection(suite: Suite, marker: str, message: str):
    suite.write(f"@pytest.mark.{marker}\nasync def test_it(cb_bus):\n    pass\n")
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_database_is_fresh_or_shared_by_a_scope(suite: Suite):
    suite.write(
        """
        names = set()

        @pytest.mark.parametrize("number", range(3))
        def test_fresh(cb_database, number):
            assert cb_database.name not in names
            names.add(cb_database.name)

        @pytest.mark.cb_database(scope="module")
        class TestShared:
            async def test_first(self, cb_bus, cb_database):
                await cb_bus.create_process_batch("orders", 0)
                names.add(cb_database.name)

            async def test_second(self, cb_database, cb_pool):
                assert cb_database.name in names
                async with cb_pool.connection() as connection:
                    cursor = await connection.execute("SELECT count(*) FROM commandbus.batch")
                    assert await cursor.fetchone() == (1,)
        """
    )
    suite.run().assert_outcomes(passed=5)
