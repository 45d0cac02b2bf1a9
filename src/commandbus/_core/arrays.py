"""Columns of many rows as binary arrays, packed in bulk: the driver takes a call for each value."""

from collections.abc import Sequence
from struct import Struct
from typing import Any
from uuid import UUID

from psycopg import postgres
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.sql import Literal

from commandbus._core.connection import Connection

_HEADER = Struct("!iiIii")  # dimensions, may it have NULLs, type of the elements, their number, the first one's
_INTEGER = Struct("!i")
_SIZE = _INTEGER.pack
_NULL = _SIZE(-1)
_UUID_SIZE = _SIZE(16)


class Packed:
    """An array as it goes over the wire, for `execute` below."""

    __slots__ = ("data", "values")
    element: str

    def __init__(self, values: Sequence[Any], fields: Sequence[bytes]) -> None:
        self.values = values
        self.data = _HEADER.pack(1, 1, postgres.types[self.element].oid, len(fields), 1) + b"".join(fields)


class _Uuids(Packed):
    element = "uuid"


class _Jsons(Packed):
    element = "json"


class _Texts(Packed):
    element = "text"


class _Integers(Packed):
    element = "int4"


def uuids(values: Sequence[UUID | None]) -> Packed:
    """Give a uuid[]."""
    return _Uuids(values, [_NULL if v is None else _UUID_SIZE + v.bytes for v in values])


def jsons(values: Sequence[str | None]) -> Packed:
    """Give a json[] of JSON texts."""
    return _Jsons(values, [_NULL if value is None else _field(value.encode()) for value in values])


def texts(values: Sequence[str | None]) -> Packed:
    """Give a text[]; quick where few of the values differ."""
    fields = {value: _NULL if value is None else _field(value.encode()) for value in set(values)}
    return _Texts(values, [fields[value] for value in values])


def integers(values: Sequence[int | None]) -> Packed:
    """Give an integer[]; quick where few of the values differ."""
    fields = {value: _NULL if value is None else _field(_INTEGER.pack(value)) for value in set(values)}
    return _Integers(values, [fields[value] for value in values])


async def execute(conn: Connection, statement: str, params: dict[str, Any]) -> tuple[Any, ...] | None:
    """Run a statement, whose parameters may be packed arrays; returns its first row."""
    async with conn.cursor() as cursor:
        for kind, dumper in _DUMPERS.items():
            cursor.adapters.register_dumper(kind, dumper)
        await cursor.execute(statement, params)
        return await cursor.fetchone()


def _field(value: bytes) -> bytes:
    return _SIZE(len(value)) + value


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> bytes:
        return obj.data

    def quote(self, obj: Packed) -> bytes:
        """As a literal, for a caller's connection whose cursors write the parameters into the statement."""
        return Literal(list(obj.values)).as_bytes(self.connection)


def _dumper(kind: type[Packed]) -> type[Dumper]:
    return type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": postgres.types[kind.element].array_oid})


_DUMPERS = {kind: _dumper(kind) for kind in (_Uuids, _Jsons, _Texts, _Integers)}
