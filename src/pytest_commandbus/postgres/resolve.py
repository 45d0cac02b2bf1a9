"""From the option --cb-postgres to the one server of a test run."""

from typing import Literal

from .container import DEFAULT_IMAGE, ContainerPostgres
from .dsn import Dsn, masked, with_database
from .errors import PostgresError
from .server import EmbeddedPostgres

EMBEDDED = "embedded"
CONTAINER = "container"


class Server:
    """The server of a run, for the process that starts and ends it; the other processes are told its `dsn`.

    `dsn` names the administrative database, from which test databases are created.
    """

    def __init__(self, dsn: str, own: EmbeddedPostgres | ContainerPostgres | None = None) -> None:
        self.dsn = Dsn(dsn)
        self.own = own

    @property
    def strategy(self) -> Literal["file_copy", "wal_log"]:
        """How to clone databases: the quicker way forces a checkpoint, so only on a server of our own."""
        return "file_copy" if self.own is not None else "wal_log"

    def detach(self) -> str:
        """Let the server outlive this process, for kept databases; return the line that ends it, "" when not ours."""
        return self.own.detach() if self.own is not None else ""

    def check(self) -> None:
        """Connect once to a server that was named. Errors: PostgresError, without the password."""
        import psycopg

        if self.own is not None:
            return
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError as error:
            said = " ".join(str(error).split())
            raise PostgresError(
                f"--cb-postgres: cannot connect to {masked(self.dsn)}: {said}; check that the server runs and lets "
                "this user in, or leave the option out for the embedded one"
            ) from None

    def stop(self) -> None:
        """End the server, if it is ours."""
        if self.own is not None:
            self.own.stop()


def resolve_server(option: str, durable: bool = False, image: str = DEFAULT_IMAGE) -> Server:
    """Return the run's server, started: option is "embedded", "container" or a connection string.

    image: of the container. Errors: PostgresError.
    """
    if option == CONTAINER:
        container = ContainerPostgres(image, durable=durable)
        container.start()
        return Server(container.dsn(), container)
    if option == EMBEDDED:
        server = EmbeddedPostgres(durable=durable)
        server.start()
        return Server(server.dsn(), server)
    if "=" not in option and "://" not in option:
        raise PostgresError(
            f"--cb-postgres={option} is neither embedded, container nor a connection string "
            "such as postgresql://user@host/database"
        )
    return Server(_checked(option))


def _checked(dsn: str) -> Dsn:
    """Return the connection string as psycopg understands it, with a database: `postgres` when it names none."""
    from psycopg.conninfo import conninfo_to_dict

    fallback = with_database(dsn, "postgres")
    return with_database(dsn, str(conninfo_to_dict(dsn).get("dbname") or conninfo_to_dict(fallback)["dbname"]))


def without_password(dsn: str) -> str:
    """Return the connection string without its password, for a line that a person runs."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    return make_conninfo("", **{key: value for key, value in conninfo_to_dict(dsn).items() if key != "password"})
