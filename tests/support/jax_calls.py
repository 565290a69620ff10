"""Public calls whose work, followed through the package, makes arrays of jax."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xdiffda

MAKERS = {"asarray", "array", "zeros", "ones", "full", "arange", "eye", "linspace", "device_put"}
ROOMS = ("xdiffda.covariance", "xdiffda.priors")  # without a list of their public names
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
CALLED = ("__init__", "__call__")


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions, and methods of classes, that the package lists as public."""
    seen = set()
    for info in [None, *pkgutil.walk_packages(xdiffda.__path__, "xdiffda.")]:
        name = "xdiffda" if info is None else info.name
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        listed = getattr(module, "__all__", []) if info is None or info.ispkg else []
        if name.startswith(ROOMS) and info is not None and not info.ispkg:
            listed = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == name]
        for label in listed:
            value = getattr(module, label)
            if label.startswith("_") or id(value) in seen:
                continue
            seen.add(id(value))
            if not inspect.isclass(value):
                yield f"{name}.{label}", value
                continue
            for method, function in vars(value).items():
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and (method in CALLED or method[0] != "_"):
                    yield f"{name}.{label}.{method}", function


def guarded(function: Any) -> bool:
    """Whether a call runs in `own_jax`."""
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is not None and code.co_filename.endswith("jax_settings.py"):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def makes_arrays(function: Any) -> bool:
    """Whether its source, or that of what it calls outside `own_jax`, makes arrays of jax."""
    seen, ahead = set(), [function]
    while ahead:
        function = ahead.pop()
        if guarded(function):
            continue
        function = inspect.unwrap(function)
        known = inspect.isfunction(function) and function.__module__.startswith("xdiffda")
        if not known or function in seen:
            continue
        seen.add(function)
        makes, called = _calls(function)
        if makes:
            return True
        ahead += called
    return False


@functools.cache
def _functions(file: str) -> dict[int, ast.AST]:
    """Functions of a file by their first line, decorators included."""
    if not Path(file).is_file():
        return {}
    nodes = [n for n in ast.walk(ast.parse(Path(file).read_text())) if isinstance(n, FUNCTION)]
    return {min([n.lineno, *(d.lineno for d in n.decorator_list)]): n for n in nodes}


@functools.cache
def _calls(function: Any) -> tuple[bool, list[Any]]:
    """Whether a function makes arrays by itself, and what else it calls."""
    code = function.__code__
    tree = _functions(code.co_filename).get(code.co_firstlineno)
    if tree is None:  # made by a decorator, of a dataclass
        return False, []
    scope = dict(function.__globals__)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            scope |= {a.asname or a.name: getattr(module, a.name, None) for a in node.names}
        if isinstance(node, ast.Import):
            scope |= {a.asname or a.name: importlib.import_module(a.name) for a in node.names}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = [ast.unparse(call) for call in calls]
    makes = any(
        text.startswith("jax.random.")
        or (text.startswith(("jnp.", "jax.")) and text.rpartition(".")[2] in MAKERS)
        for text in texts
    )
    return makes, [found for call in calls if (found := _resolved(call, scope)) is not None]


def _resolved(node: ast.expr, scope: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        value = scope.get(node.id)
    elif isinstance(node, ast.Attribute):
        value = getattr(_resolved(node.value, scope), node.attr, None)
    else:
        return None
    return getattr(value, "__init__", None) if inspect.isclass(value) else value
