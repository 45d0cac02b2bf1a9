"""How xdist workers get the run's one server: the first that needs it asks the controller, which starts it then."""

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Listener

from .postgres.errors import PostgresError

_HOST = "127.0.0.1"


class ServerDesk:
    """Answers every worker that asks with the DSN of the server, from a thread of the controller.

    Only who knows the drawn key is answered: other users of the machine may connect to the loopback.
    """

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._dsn = dsn
        self._key = secrets.token_hex(16)
        self._listener = Listener((_HOST, 0), authkey=self._key.encode())
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="commandbus server desk", daemon=True)
        self._thread.start()

    @property
    def address(self) -> Mapping[str, str]:
        """What `ask` needs: built-in types only."""
        return {"port": str(self._listener.address[1]), "key": self._key}

    def close(self) -> None:
        """Answer no more."""
        self._closing = True
        _connect(self.address).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except Exception:  # noqa: S112  whoever connects without the key must not end the desk
                continue
            with connection:
                if self._closing:
                    return
                try:
                    answer = {"dsn": self._dsn()}
                except Exception as error:  # the worker that asked shows it
                    answer = {"error": str(error)}
                connection.send_bytes(json.dumps(answer).encode())


def ask(address: Mapping[str, str]) -> str:
    """Return the DSN of the run's server from the controller's desk at `address`. Errors: PostgresError."""
    with _connect(address) as connection:
        answer = json.loads(connection.recv_bytes())
    if "error" in answer:
        raise PostgresError(answer["error"])
    return str(answer["dsn"])


def _connect(address: Mapping[str, str]):  # type: ignore[no-untyped-def]  # its type is private and differs by platform
    return Client((_HOST, int(address["port"])), authkey=address["key"].encode())
