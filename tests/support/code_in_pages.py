"""Does Python code in the documentation fit xdiffda? Names and keywords, without running it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any


def resolve(path: str) -> Any:
    """The object of a dotted path."""
    if path.startswith(("xarray.Dataset.diffda", "xarray.DataArray.diffda")):
        import xdiffda.accessor as accessor

        _, kind, _, *method = path.split(".")
        face = getattr(accessor, f"{kind}Accessor")
        return getattr(face, method[0]) if method else face
    first, *rest = path.split(".")
    thing: Any = importlib.import_module(first)
    for i, part in enumerate(rest):
        if not hasattr(thing, part) and inspect.ismodule(thing):
            importlib.import_module(".".join([first, *rest[: i + 1]]))
        thing = getattr(thing, part)
    return thing


def keywords_of(function: Any, owner: str = "") -> set[str] | None:
    """Keywords that a function takes; None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        # a method of the accessor: its docstring names the function that it calls
        target = re.search(r"`(xdiffda[\w.]+)`", inspect.getdoc(function) or "")
        return keywords_of(resolve(target[1])) if target else None
    return {p.name for p in parameters}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def complaints_about(code: str) -> list[str]:
    """Names and keywords in Python code that xdiffda does not have."""
    tree, known, wrong = ast.parse(code), {"xdiffda": "xdiffda"}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xdiffda"):
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, *tail = dotted(node.func).split(".")
        if len(tail) >= 2 and tail[-2] == "diffda":
            path = f"xarray.Dataset.diffda.{tail[-1]}"
        elif head in known:
            path = ".".join([known[head], *tail])
        else:
            continue
        try:
            allowed = keywords_of(resolve(path))
        except (AttributeError, ModuleNotFoundError):
            wrong.append(f"no {path}")
            continue
        given = {k.arg for k in node.keywords if k.arg}
        if allowed is not None and given - allowed:
            wrong.append(f"{path} without {sorted(given - allowed)}")
    return wrong


def needed_packages(code: str, root: Path) -> set[str]:
    """Top-level modules that code imports: its own, and those of the parts of xdiffda it names.

    What a part imports inside of functions counts where the code names that part
    (``xdiffda.train.__main__``), not where it only comes with another.
    """
    found: set[str] = set()
    seen: set[str] = set()
    queue = [(name, True) for name in _imports(ast.parse(code), "", inside=True)]
    while queue:
        name, named = queue.pop()
        if not name.startswith("xdiffda"):
            found.add(name.partition(".")[0])
            continue
        base = root.joinpath(*name.split("."))
        files = [f for f in (base.with_suffix(".py"), base / "__init__.py") if f.exists()]
        if files and name not in seen:  # else a function or class
            seen.add(name)
            tree = ast.parse(files[0].read_text(encoding="utf-8"))
            inside = named and name != "xdiffda"
            package = name if files[0].stem == "__init__" else name.rpartition(".")[0]
            queue += [(other, False) for other in _imports(tree, package, inside=inside)]
    return found - sys.stdlib_module_names


def _imports(tree: ast.Module, package: str, *, inside: bool) -> set[str]:
    """Dotted names of all imports of a module in a package, or of those at its top."""
    names: set[str] = set()
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names |= {home, *(f"{home}.{alias.name}" for alias in node.names)}
    return names
