"""Frozen dataclasses from TOML, with every wrong entry listed at once."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import json
import pydoc
import re
import textwrap
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
    """Make ``cls`` from a table; None, and more in ``problems``, where that cannot be.

    A class with ``FLAT``, name of a field -> function from a name to a dataclass, has the entries
    of that dataclass beside its own: the field's value in the file is the name.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    before = len(problems)
    values: dict[str, Any] = {}
    beside: list[str] = []
    for name, class_of in getattr(cls, "FLAT", {}).items():
        given = table.get(name, known[name].default)
        try:
            kind = class_of(getattr(given, "name", given))
        except InputError as error:
            problems += error.problems
            continue
        own = [f.name for f in dataclasses.fields(kind) if f.name not in known]
        values[name] = build(kind, {n: table[n] for n in own if n in table}, problems, prefix)
        beside += own
    for name, value in table.items():
        label = prefix + name
        if name in values or name in beside or name in getattr(cls, "FLAT", {}):
            continue
        if name not in known:
            problems.append(_unknown(name, prefix, [*known, *beside], hints))
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


def _unknown(name: str, prefix: str, known: list[str], hints: dict[str, Any]) -> Problem:
    """An entry that is not known here; it may belong into a table within."""
    for field, hint in hints.items():
        for option in _options(hint):
            if dataclasses.is_dataclass(option) and name in {
                f.name for f in dataclasses.fields(option)
            }:
                there = f"[{prefix}{field}]"
                return Problem(f"entry {prefix}{name}", f"{name} in the table {there}", there)
    return Problem(f"entry {prefix}{name}", f"one of {', '.join(known)}", f"# {prefix}{name}")


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


def write_commented(config: Any, *, title: str) -> str:
    """A dataclass as TOML: every entry, with what its class's docstring says of it above it.

    Parameters
    ----------
    config : frozen dataclass
        As `read_toml` reads it back. An entry that is None, which TOML cannot say, stands as a
        comment.
    title : str
        First line of the text.

    Returns
    -------
    str

    Examples
    --------
    >>> @dataclasses.dataclass(frozen=True)
    ... class Sites:
    ...     '''Where.
    ...
    ...     Attributes
    ...     ----------
    ...     number : int
    ...         Of all sites.
    ...     '''
    ...     number: int = 3
    >>> print(write_commented(Sites(), title="An example."))
    # An example.
    <BLANKLINE>
    # int: Of all sites.
    number = 3
    """
    return "\n".join([*_comment(title), "", *_table(config, "")]).rstrip()


def _table(config: Any, label: str) -> list[str]:
    """Entries of a table, then the tables within it, which TOML wants last."""
    about, lines, tables = _about(type(config)), [], []
    flat = getattr(type(config), "FLAT", {})
    for field in dataclasses.fields(config):
        value, own = getattr(config, field.name), f"{label}{field.name}"
        comment = _comment(about.get(field.name, ""))
        if field.name in flat:
            own_lines = _table(value, label)
            cut = own_lines.index("") if "" in own_lines else len(own_lines)
            lines += [*comment, _entry(field.name, value.name), *own_lines[:cut]]
            tables += own_lines[cut:]
        elif dataclasses.is_dataclass(value):
            tables += ["", *comment, f"[{own}]", *_table(value, f"{own}.")]
        elif isinstance(value, dict) and any(map(dataclasses.is_dataclass, value.values())):
            for name, each in value.items():
                tables += ["", *comment, f"[{own}.{json.dumps(name)}]", *_other_than_default(each)]
                comment = []
        else:
            lines += [*comment, f"# {field.name} =" if value is None else _entry(field.name, value)]
    return lines + tables


def _other_than_default(config: Any) -> list[str]:
    found, flat = [], getattr(type(config), "FLAT", {})
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in flat:
            if value.name != field.default.name:
                found.append(_entry(field.name, value.name))
            found += _other_than_default(value)
        elif value != field.default and value is not None:
            found.append(_entry(field.name, value))
    return found


def _entry(name: str, value: Any) -> str:
    return f"{name} = {_literal(value)}"


def _literal(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(str(k))} = {_literal(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value)  # text, numbers, true and false are the same in TOML


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 96)]


def _about(of: Any) -> dict[str, str]:
    """What the numpydoc sections Attributes or Parameters say of each name.

    "See `xdiffda.that`." stands for what is said there.
    """
    found: dict[str, str] = {}
    for each in reversed(of.__mro__) if isinstance(of, type) else (of,):
        doc = inspect.cleandoc(each.__doc__ or "").replace("\\\n", "")
        names: list[str] = []
        for line in re.split(r"(?:Attributes|Parameters)\n-{10}\n", doc, maxsplit=1)[
            -1
        ].splitlines():
            if line and not line.startswith(" "):
                given, _, kind = line.partition(" : ")
                names = [name.strip() for name in given.split(",")]
                found |= dict.fromkeys(names, "" if not kind else f"{kind}:")
            elif line:
                found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
    return {name: _plain(text, name) for name, text in found.items()}


def _plain(text: str, name: str) -> str:
    """Without the marks of a docstring, and what it refers to instead of the reference."""
    if see := re.fullmatch(r"(?:[\w, ]+: )?(?:See|As in) `(xdiffda[\w.]*)`\.", text):
        there = _about(pydoc.locate(see[1])).get(name)
        if there:
            return there
    return re.sub(r"`+(?:xdiffda\.)?([^`]+)`+", r"\1", text).removesuffix(":")
