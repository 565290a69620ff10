"""Frozen dataclasses from TOML, with every wrong entry listed at once."""

from __future__ import annotations

import dataclasses
import datetime
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from xdiffda.errors import InputError, Problem, raise_if

T = TypeVar("T")


def read_toml(cls: type[T], path: str | Path, *, example: str) -> T:
    """Read one dataclass from a TOML file; tables are dataclasses within it.

    Parameters
    ----------
    cls : frozen dataclass
        Annotated with int, float, str, bool, dict, dataclasses and unions of these.
    path : path
    example : str
        A line that such a file has, for the error of a file that is no TOML.

    Raises
    ------
    InputError
        Listing every unknown, missing or mistyped entry.
    FileNotFoundError
        If there is no such file.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError([Problem(f"no TOML: {error}", "TOML", example)], what=str(path)) from error
    except IsADirectoryError as error:
        raise InputError([Problem("a folder", "a TOML file", example)], what=str(path)) from error
    problems: list[Problem] = []
    config = build(cls, table, problems)
    raise_if(problems, what=str(path))
    return config


def build(cls: type, table: dict[str, Any], problems: list[Problem], prefix: str = "") -> Any:
    """Make ``cls`` from a table; None, and more in ``problems``, where that cannot be."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    before = len(problems)
    values: dict[str, Any] = {}
    for name, value in table.items():
        label = prefix + name
        if name not in known:
            problems.append(Problem(f"entry {label}", f"one of {', '.join(known)}", f"# {label}"))
            continue
        values[name] = _converted(value, _options(hints[name]), label, problems)
    for name, field in known.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in table:
            problems.append(
                Problem(f"no entry {prefix}{name}", f"{name}, a {_names(hints[name])}", "")
            )
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except InputError as error:  # values that do not go together
        problems += error.problems
        return None


def build_all(
    cls: type, tables: Mapping[str, Any], problems: list[Problem], prefix: str
) -> dict[str, Any]:
    """Make ``cls`` from each of some named tables; what is made already is kept."""
    built: dict[str, Any] = {}
    for name, of in tables.items():
        label = f"{prefix}.{name}"
        if isinstance(of, cls):
            built[name] = of
        elif isinstance(of, Mapping):
            built[name] = build(cls, dict(of), problems, f"{label}.")
        else:
            built[name] = None
            problems.append(Problem(f"{label} = {of!r}", "a table of settings", f"[{label}]"))
    return built


def _converted(value: Any, options: tuple[type, ...], label: str, problems: list[Problem]) -> Any:
    if isinstance(value, dict):
        for option in options:
            if dataclasses.is_dataclass(option):
                return build(option, value, problems, f"{label}.")
    if type(value) in options:  # a bool is an int, but not meant as one
        return value
    if isinstance(value, datetime.date) and str in options:  # TOML has times of its own
        return _text_of(value)
    if type(value) is int and float in options:
        return float(value)
    if isinstance(value, list) and tuple in options:
        return _frozen(value)
    problems.append(Problem(f"{label} = {value!r}", f"a {_names(options)}", ""))
    return None


def _text_of(value: datetime.date) -> str:
    """A date or time as text, in UTC."""
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return value.isoformat()


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _options(hint: Any) -> tuple[type, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    return tuple(typing.get_origin(option) or option for option in options)


def _names(hint: Any) -> str:
    options = hint if isinstance(hint, tuple) else _options(hint)
    words = {"dict": "table", "NoneType": ""}
    names = [
        "table" if dataclasses.is_dataclass(o) else words.get(o.__name__, o.__name__)
        for o in options
    ]
    return " or ".join(name for name in names if name)
