"""Every repair that the package prints, read from its source, and what is wrong with its words.

A repair is the third argument of a `Problem`, or what stands in backticks behind "repair:" in
the text of a `StorageError`, a `ModelError` or a warning.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

import xdiffda

PACKAGE = Path(xdiffda.__file__).parent
TOLD = ("StorageError", "ModelError", "XdiffdaError", "warn")
SHELL = {"pip", "mkdir", "ls", "cat", "unzip", "gunzip", "file", "iconv", "du", "xdiffda", "rm"}
SHELL |= {"python", "dask", "export", "ulimit", "sbatch", "mv", "cp", "df", "nvidia-smi"}
SHELL |= {"fuser", "ncdump"}
STAND_IN = "name"


def texts_of(node: ast.expr | None, scope: dict[str, list[ast.expr]], depth: int = 0) -> list[str]:
    """What an expression may say, with `STAND_IN` for what is only known when it runs."""
    if node is None or depth > 6:
        return []

    def inner(n: ast.expr | None) -> list[str]:
        return texts_of(n, scope, depth + 1)

    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        parts = [
            [str(v.value)] if isinstance(v, ast.Constant) else _put_in(v, inner)
            for v in node.values
        ]
        return ["".join(p) for p in itertools.islice(itertools.product(*parts), 24)]
    if isinstance(node, ast.IfExp):
        return inner(node.body) + inner(node.orelse)
    if isinstance(node, ast.BoolOp):
        return [t for v in node.values for t in inner(v)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = inner(node.left), inner(node.right)
        return [a + b for a, b in itertools.islice(itertools.product(left, right), 24)]
    if isinstance(node, ast.Name):
        return [t for value in scope.get(node.id, []) for t in inner(value)]
    return []


def _put_in(value: Any, inner: Any) -> list[str]:
    """What may stand in the place of a formatted value."""
    if getattr(value.value, "attr", "") == "note":
        return ["  # a note"]
    said = [t for t in inner(value.value) if "`" not in t]
    if value.conversion == ord("r"):
        return [repr(t) for t in said] or [repr(STAND_IN)]
    return said or ["1" if value.format_spec else STAND_IN]


def printed() -> Iterator[tuple[str, str]]:
    """Where each repair is made (file:line), and its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "cli.py":
            continue  # translates the repairs of others
        tree = ast.parse(path.read_text())
        top = _assigned([n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign)])
        for function, scope in _scopes(tree, top):
            for node in function:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                if name.endswith("Problem"):
                    given = node.args[2] if len(node.args) > 2 else None
                    given = next((k.value for k in node.keywords if k.arg == "repair"), given)
                    yield from ((where, text) for text in texts_of(given, scope) if text)
                elif name in TOLD and node.args:
                    for text in texts_of(node.args[0], scope):
                        for code in re.findall(r"`([^`]+)`", text.partition("repair: ")[2]):
                            yield where, code


def _assigned(body: list[ast.stmt]) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.For):
                found |= {n.id: [] for n in ast.walk(node.target) if isinstance(n, ast.Name)}
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    pairs = [(target, node.value)]
                    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                        pairs = list(zip(target.elts, node.value.elts, strict=False))
                    for one, value in pairs:
                        if isinstance(one, ast.Name):
                            found.setdefault(one.id, []).append(value)
    return found


def _scopes(tree: ast.Module, top: dict) -> Iterator[tuple[list[ast.Call], dict]]:
    """The calls of each function, with the names that are assigned in it."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = [n for n in ast.walk(node) if isinstance(n, ast.Call) and id(n) not in inside]
            inside.update(map(id, calls))
            yield calls, {**top, **_assigned(node.body)}
    rest = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and id(n) not in inside]
    yield rest, top


# ------------------------------------------------------------------ what is wrong with the words


def public() -> dict[str, list[Any]]:
    """Everything that the package defines, by its bare name."""
    found: dict[str, list[Any]] = {}
    for info in pkgutil.walk_packages([str(PACKAGE)], "xdiffda."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:
            continue
        for name, value in vars(module).items():
            if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("xd"):
                found.setdefault(name, []).append(value)
                if inspect.isclass(value):
                    for method, function in vars(value).items():
                        if not method.startswith("_"):
                            function = getattr(function, "__func__", function)
                            found.setdefault(f".{method}", []).append(function)
    return found


def fault(text: str, known: dict[str, list[Any]]) -> str:
    """What is wrong with a repair; empty where nothing is."""
    from xdiffda.cli import app

    code = text.strip()
    try:
        tree = ast.parse(code)
    except SyntaxError:
        try:
            words = shlex.split(code, comments=True)
        except ValueError:
            return "neither Python nor a command"
        if _is_toml(code):
            return ""
        if words[0].startswith("--"):
            wrong = [w for w in words if w.startswith("--") and w not in _options_of_training()]
            return f"no options {wrong}" if wrong else ""
        words = words[words[0].count("=") and not words[0].startswith("-") :] or words
        if words[0] == "xdiffda":
            return _wrong_option(words, app)
        return "" if words[0] in SHELL else "neither Python nor a command"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first = node.args[:1]
            if first and _is_ellipsis(first[0]) and len(node.args) == 1 and node.keywords:
                node.args = []  # the same call as before, with these arguments: f(..., n=1)
    for node in ast.walk(tree):
        if _is_ellipsis(node):
            return "a placeholder"
        if isinstance(node, ast.Call) and (wrong := _wrong_call(node, known)):
            return wrong
    return ""


def _is_toml(code: str) -> bool:
    """Whether entries of a configuration, one or some with commas between them."""
    import tomllib

    number = itertools.count()
    code = re.sub(rf"\b{STAND_IN}\b", lambda _: f"{STAND_IN}{next(number)}", code)
    for text in (code, f"entries = {{{code}}}"):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            tomllib.loads(text)
            return True
    return False


@functools.cache
def _options_of_training() -> set[str]:
    sources = (path.read_text() for path in (PACKAGE / "train").glob("*.py"))
    return {option for text in sources for option in re.findall(r"\"(--[a-z-]+)\"", text)}


def _is_ellipsis(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _wrong_option(words: list[str], app: Any) -> str:
    import typer

    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    if len(words) < 2 or words[1] not in commands:
        return "" if words[1:2] == ["--version"] else f"no command {words[1:2]}"
    options = {o for p in commands[words[1]].params for o in p.opts}
    wrong = [w for w in words[2:] if w.startswith("--") and w.partition("=")[0] not in options]
    return f"no options {wrong}" if wrong else ""


FOREIGN = [xr.Dataset, xr.DataArray, pd.DataFrame, pd.Series, np.ndarray, str, list, dict]
FOREIGN += [type(pd.Series(dtype=str).str), pd.Timestamp, pd.DatetimeIndex, Path]
FOREIGN += [
    np.random.Generator,
    type(pd.Series(dtype="M8[ns]").dt),
    np.datetime64,
    pd.Timedelta,
    np.float64,
]
MODULES = {"np": np, "numpy": np, "pd": pd, "pandas": pd, "jnp": jnp, "xr": xr, "xarray": xr}


def _wrong_call(call: ast.Call, known: dict[str, list[Any]]) -> str:
    chain: list[str] = []
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute):
        chain.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        chain.insert(0, node.id)
    name = ".".join(chain)
    last = chain[-1] if chain else ""
    if STAND_IN in chain or name in ("forecaster", "my_model"):  # only known when it runs
        return ""
    if isinstance(node, ast.Name) and node.id == "xdiffda":
        functions = [_reach(xdiffda, chain[1:])]
    elif "diffda" in chain[:-1]:
        from xdiffda.accessor import DataArrayAccessor, DatasetAccessor

        functions = [getattr(c, last, None) for c in (DatasetAccessor, DataArrayAccessor)]
        functions = [getattr(f, "function", f) for f in functions]
    elif isinstance(node, ast.Name) and node.id in MODULES and len(chain) > 1:
        functions = [_reach(MODULES[node.id], chain[1:])]
    elif isinstance(node, ast.Name) and len(chain) == 1:
        functions = [*known.get(last, []), getattr(__builtins__, last, None)]
        functions += [__builtins__.get(last)] if isinstance(__builtins__, dict) else []
    elif isinstance(node, ast.Name) and node.id[0].islower() and _module(node.id) is not None:
        functions = [_reach(_module(node.id), chain[1:])]
    else:  # a method of something
        functions = [getattr(kind, last, None) for kind in FOREIGN]
        functions += known.get(f".{last}", []) + known.get(last, [])
    functions = [f for f in functions if f is not None]
    if not functions:
        return f"no {name}"
    words = [k.arg for k in call.keywords if k.arg]
    wrong = [_unknown(f, words) for f in functions]
    return "" if any(not w for w in wrong) else f"{name} has no {wrong[0]}"


def _module(name: str) -> Any:
    import os
    import sys

    if name in ("os", "sys"):
        return {"os": os, "sys": sys}[name]
    try:
        return (
            importlib.import_module(name)
            if name in ("jax", "cftime", "dask", "earth2bufr", "pdbufr", "distributed", "icechunk")
            else None
        )
    except ImportError:
        return None


def _reach(value: Any, names: list[str]) -> Any:
    for name in names:
        value = getattr(value, name, None)
    return value


def _unknown(function: Any, words: list[str]) -> list[str]:
    try:
        signature = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return []
    if any(p.kind is p.VAR_KEYWORD for p in signature.values()):
        return []
    return [w for w in words if w not in signature and w != STAND_IN]


# ------------------------------------------------------------------ repairs that are run


def again(repair: str, given: dict[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call after its repair, which names some of them anew, or a piece of data.

    ``f(..., n=1)`` and ``n=1`` change that argument of the call as it was; ``f(data)`` takes all
    of them back to their defaults; what is neither makes the data of its first name anew.
    """
    scope = scope | given
    node = ast.parse(repair.strip()).body[0]
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return given | {node.targets[0].id: eval(ast.unparse(node.value), scope)}
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        name = ast.unparse(node.value.func).rpartition(".")[2]
        if name == scope["name"]:
            keywords = {str(k.arg): eval(ast.unparse(k.value), scope) for k in node.value.keywords}
            data = {k: v for k, v in given.items() if isinstance(v, xr.Dataset)}
            anew = not keywords or ".diffda." in repair  # as it is written, with nothing else
            return (data if anew else given) | keywords
    first = next(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in given)
    if isinstance(node, ast.Expr):
        return given | {first: eval(repair, scope)}
    exec(repair, scope)
    return given | {first: scope[first]}


def until_it_works(call: Any, given: dict[str, Any], scope: dict[str, Any], most: int = 5) -> Any:
    """Follow all printed repairs: the result of the call, or the honest error without a repair."""
    from xdiffda.errors import InputError

    seen: set[str] = set()
    for _ in range(most):
        try:
            return call(**given), seen
        except InputError as error:
            text = str(error)
            assert text not in seen, f"no-op or loop: {text}"
            seen.add(text)
            repairs = [problem.repair for problem in error.problems if problem.repair]
            if not repairs:
                return None, seen
            for repair in repairs:
                given = again(repair, given, scope)
    raise AssertionError(f"no end: {seen}")
