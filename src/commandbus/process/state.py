"""A process's state as JSON and back: a dict, a dataclass, a pydantic model, or a class with to_dict and from_dict.

A dataclass comes back with what its annotations name: dataclasses, models, enums, UUIDs, datetimes, dates and times,
also inside lists, tuples, dicts and optional values. What could not come back is refused when the class is first used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

Converter = Callable[[Any], Any]
_AS_THEY_ARE = frozenset({str, int, float, bool, NoneType})
_TEXTS: dict[type[Any], Converter] = {
    UUID: UUID,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    time: time.fromisoformat,
}


def dump_state(state: Any) -> dict[str, Any]:
    """Give a state of any of the kinds above as a dict."""
    return _dumper(type(state))(state)  # type: ignore[arg-type]  # every class is hashable


def load_state(state_class: type[Any], data: dict[str, Any]) -> Any:
    """Make a state of `state_class` of what dump_state gave.

    Raises TypeError for a class whose annotations cannot be followed, and what its own code raises.
    """
    return _loader(state_class)(data)  # type: ignore[arg-type]  # every class is hashable


def keep_unknown(state_class: type[Any], stored: dict[str, Any], dumped: dict[str, Any]) -> dict[str, Any]:
    """Give a dumped state with those fields of the stored one that its class does not know: another version's.

    A state with to_dict and from_dict keeps what those keep.
    """
    known = _known_fields(state_class)  # type: ignore[arg-type]  # every class is hashable
    if known is None or stored.keys() <= known:
        return dumped
    return {name: value for name, value in stored.items() if name not in known} | dumped


@lru_cache(maxsize=1_024)
def _field_names(state_class: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(state_class))


def _plain(value: Any) -> Any:
    """A field's value as JSON, also inside lists and dicts; what is none of ours stays, to be refused by name."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if not isinstance(value, type) and _is_state(type(value)):  # type: ignore[arg-type]  # every class is hashable
        return dump_state(value)
    return value


@lru_cache(maxsize=1_024)
def _is_state(kind: type[Any]) -> bool:
    """Whether objects of this class are written as a whole state is."""
    return is_dataclass(kind) or hasattr(kind, "to_dict") or hasattr(kind, "model_dump")


@lru_cache(maxsize=1_024)
def _dumper(state_class: type[Any]) -> Callable[[Any], dict[str, Any]]:
    """Look once at what kind of state a class is."""
    if issubclass(state_class, dict):
        return lambda state: state
    if hasattr(state_class, "to_dict"):
        return lambda state: dict(state.to_dict())
    if hasattr(state_class, "model_dump"):
        return lambda state: dict(state.model_dump(mode="json"))
    if is_dataclass(state_class):
        names = _field_names(state_class)
        return lambda state: {name: _plain(getattr(state, name)) for name in names}
    raise TypeError(
        f"a process state of type {state_class.__name__} has no to_dict(); "
        "give it to_dict and from_dict, or make it a dataclass, a pydantic model or a dict"
    )


@lru_cache(maxsize=1_024)
def _known_fields(state_class: type[Any]) -> frozenset[str] | None:
    """The fields of a dataclass or pydantic model; None for a class that decides by itself what it keeps."""
    if issubclass(state_class, dict) or hasattr(state_class, "to_dict") or hasattr(state_class, "from_dict"):
        return None
    if hasattr(state_class, "model_fields"):
        return frozenset(state_class.model_fields)
    return frozenset(_field_names(state_class)) if is_dataclass(state_class) else None


@lru_cache(maxsize=1_024)
def _loader(state_class: type[Any]) -> Callable[[dict[str, Any]], Any]:
    if hasattr(state_class, "from_dict"):
        return state_class.from_dict  # type: ignore[no-any-return]
    if hasattr(state_class, "model_validate"):
        return state_class.model_validate  # type: ignore[no-any-return]
    if not is_dataclass(state_class):
        return state_class
    known = frozenset(f.name for f in fields(state_class) if f.init)
    converters = _converters(state_class)

    def load(data: dict[str, Any]) -> Any:
        """Leave out what the class does not know (any more), or computes by itself."""
        return state_class(**(data if data.keys() <= known else {k: v for k, v in data.items() if k in known}))

    def load_converted(data: dict[str, Any]) -> Any:
        own = {k: v for k, v in data.items() if k in known}
        for name, convert in converters.items():
            if own.get(name) is not None:
                own[name] = convert(own[name])
        return state_class(**own)

    return load_converted if converters else load


def _converters(state_class: type[Any]) -> dict[str, Converter]:
    """What to do with those fields of a dataclass that JSON does not give back as they were."""
    try:
        hints = get_type_hints(state_class)
    except NameError as error:
        raise TypeError(
            f"the annotations of {state_class.__name__} cannot be followed ({error}): define or import the name in its "
            "module, not for type checkers only, or give the class to_dict and from_dict"
        ) from None
    found = {}
    for field in fields(state_class):
        try:
            convert = _converter(hints.get(field.name, Any))
        except TypeError as error:
            raise TypeError(f"{state_class.__name__}.{field.name} would not come back as it was: {error}") from None
        if convert is not None and field.init:
            found[field.name] = convert
    return found


def _converter(hint: Any) -> Converter | None:
    """How to make a value of this type of its JSON; None when that is the value itself."""
    for alias in ("__value__", "__supertype__"):  # of `type X = Y` and NewType
        if hasattr(hint, alias):
            return _converter(getattr(hint, alias))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _of_union(hint, arguments)
    if origin is tuple or hint is tuple:
        return _of_tuple(arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _of_values(arguments[1], dict, lambda value, each: {k: each(v) for k, v in value.items()})
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return _of_values(arguments[0], list, lambda value, each: [each(v) for v in value])
    if isinstance(hint, type) and hint not in _AS_THEY_ARE:
        return _of_class(hint)
    return None


def _of_class(kind: type[Any]) -> Converter | None:
    if issubclass(kind, Enum):
        if any(type(_plain(member)) not in _AS_THEY_ARE for member in kind):
            raise TypeError(f"{kind.__name__} has a member whose value is neither text nor a number: give it one")
        return kind
    if kind in _TEXTS:
        parse = _TEXTS[kind]
        return lambda value: parse(value) if isinstance(value, str) else value
    if is_dataclass(kind) or hasattr(kind, "from_dict") or hasattr(kind, "model_validate"):
        return lambda value: load_state(kind, value) if isinstance(value, dict) else value
    return None


def _of_values(hint: Any, container: type[Any], rebuild: Callable[[Any, Converter], Any]) -> Converter | None:
    each = _converter(hint)
    if each is None:
        return None
    return lambda value: rebuild(value, _optional(each)) if isinstance(value, container) else value


def _of_tuple(arguments: tuple[Any, ...]) -> Converter:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        each = _optional(_converter(arguments[0]))
        return lambda value: tuple(map(each, value)) if isinstance(value, list) else value
    members = [_optional(_converter(argument)) for argument in arguments]
    if not members:
        return lambda value: tuple(value) if isinstance(value, list) else value
    return lambda value: (
        tuple(convert(v) for convert, v in zip(members, value, strict=True)) if isinstance(value, list) else value
    )


def _of_union(hint: Any, arguments: tuple[Any, ...]) -> Converter | None:
    members = [argument for argument in arguments if argument is not NoneType]
    converters = [convert for member in members if (convert := _converter(member)) is not None]
    if not converters:
        return None
    if len(members) > 1:
        raise TypeError(f"of {hint} JSON does not tell which it was; name one type, or write to_dict and from_dict")
    return _optional(converters[0])


def _optional(convert: Converter | None) -> Converter:
    return lambda value: value if value is None or convert is None else convert(value)
