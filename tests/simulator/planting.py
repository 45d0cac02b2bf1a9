"""Plants a defect in a copy of the bus: one place of a function, in Python or in the schema, is replaced."""

import __future__

import inspect
import re
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString, cast

from psycopg import AsyncConnection

FUNCTION: LiteralString = """
    SELECT pg_get_functiondef(p.oid) FROM pg_proc p
     WHERE p.pronamespace = 'commandbus'::regnamespace AND p.proname = %s"""


@dataclass(frozen=True)
class Mutant:
    """A defect: `old` becomes `new` in a function of the schema, named by a str, or of Python, named by (owner, name).

    rules: those by which the auditor may name it. What is not found (any more) fails, with the place.
    """

    name: str
    rules: tuple[str, ...]
    where: str | tuple[Any, str]
    old: str
    new: str

    @property
    def place(self) -> str:
        """Where it is planted, for people."""
        if isinstance(self.where, str):
            return f"commandbus.{self.where}()"
        owner, name = self.where
        return f"{getattr(owner, '__qualname__', getattr(owner, '__name__', owner))}.{name}"

    def planted(self, conn: AsyncConnection[Any]) -> AbstractAsyncContextManager[None]:
        """Plant it for as long as the block lasts."""
        return self._in_sql(conn, self.where) if isinstance(self.where, str) else self._in_python(*self.where)

    @asynccontextmanager
    async def _in_sql(self, conn: AsyncConnection[Any], function: str) -> AsyncIterator[None]:
        rows = await (await conn.execute(FUNCTION, (function,))).fetchall()
        if len(rows) != 1:
            raise LookupError(
                f"{self.name}: {len(rows)} functions are called {self.place}: bring this mutant up to date"
            )
        sound = rows[0][0]
        await conn.execute(cast("LiteralString", self.replace(sound)))
        try:
            yield
        finally:
            await conn.execute(sound)

    @asynccontextmanager
    async def _in_python(self, owner: Any, name: str) -> AsyncIterator[None]:
        with self._patched(owner, name):
            yield

    @contextmanager
    def _patched(self, owner: Any, name: str) -> Iterator[None]:
        sound = inspect.getattr_static(owner, name)
        setattr(owner, name, self.replace(sound) if isinstance(sound, str) else self._recompiled(sound))
        try:
            yield
        finally:
            setattr(owner, name, sound)

    def _recompiled(self, sound: Any) -> Any:
        """The function from its changed source, with the globals that it has."""
        is_static = isinstance(sound, staticmethod)
        function: Callable[..., Any] = sound.__func__ if is_static else sound
        source = self.replace(textwrap.dedent(inspect.getsource(function)))
        source = re.sub(r"\A(@\w+\s*)+", "", source)
        made: dict[str, Any] = {}
        code = compile(source, f"<mutant {self.name}>", "exec", __future__.annotations.compiler_flag)
        exec(code, function.__globals__, made)  # noqa: S102  our own source
        changed = made[function.__name__]
        return staticmethod(changed) if is_static else changed

    def replace(self, text: str) -> str:
        """Change the one place; white space may differ. Raises LookupError when it is not there just once."""
        pattern = r"\s+".join(map(re.escape, self.old.split()))
        changed, places = re.subn(pattern, lambda _: self.new, text)
        if places != 1:
            raise LookupError(
                f"{self.name}: {self.place} has {places} places that read {self.old!r}, not 1: it has changed since; "
                "bring this mutant up to date"
            )
        return changed


NO_FENCE = Mutant(
    "no fence",
    ("S5", "S4", "S3"),
    "settle",
    "s.command_id AND q.epoch = s.epoch AND q.worker_id = s.worker_id AND (NOT",
    "s.command_id AND q.epoch >= s.epoch AND s.worker_id > 0 AND (NOT",
)
