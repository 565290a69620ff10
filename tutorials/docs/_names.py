"""Public names of the package: which there are, and in which table of the reference they stand.

A page of the reference lists names in blocks

    ```{made} names xdiffda.observations
    to_tidy
    ...
    ```

where ``...`` stands for all public names of the module that no other block lists: a name that
is added to the code is in the reference at once.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

REST = "..."
ACCESSORS = ("xarray.Dataset.diffda", "xarray.DataArray.diffda")
_BLOCK = re.compile(r"^```\{made\} names (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(folder: Path) -> list[tuple[str, list[str]]]:
    """(module, names) of each block in the reference pages of the docs in ``folder``."""
    found = []
    for page in sorted((folder / "reference").glob("*.md")):
        for module, content in _BLOCK.findall(page.read_text(encoding="utf-8")):
            found.append((module, content.split()))
    return found


def public_names(module: str) -> list[str]:
    """Public functions, classes and constants of a module, or methods of an accessor.

    ``__all__`` without submodules; where there is none, what the module itself defines.
    """
    if module in ACCESSORS:
        import xdiffda.accessor as accessor

        face = {"Dataset": "DatasetAccessor", "DataArray": "DataArrayAccessor"}
        methods = vars(getattr(accessor, face[module.split(".")[1]]))
        return [name for name in methods if not name.startswith("_")]
    home = importlib.import_module(module)
    if not hasattr(home, "__all__"):
        return [
            name
            for name, value in vars(home).items()
            if not name.startswith("_")
            and callable(value)
            and getattr(value, "__module__", None) == module
            and getattr(value, "__name__", None) == name
        ]
    names = [name for name in home.__all__ if not name.startswith("__")]
    return [name for name in names if not inspect.ismodule(getattr(home, name))]


def expand(module: str, content: list[str], folder: Path) -> list[str]:
    """Names of a block, with ``...`` replaced by those that no block of the module lists."""
    chosen = [name for line in content for name in line.split()]
    if REST not in chosen:
        return chosen
    listed = {name for home, names in blocks(folder) if home == module for name in names}
    rest = [name for name in public_names(module) if name not in listed]
    at = chosen.index(REST)
    return [*chosen[:at], *rest, *chosen[at + 1 :]]


def alias_of(module: str, name: str, folder: Path) -> str:
    """The public name under which the same thing is described; empty if it is this one.

    What ``xdiffda`` itself offers is described there; the rest where it is defined, if the
    reference has that module.
    """
    if module in ("xdiffda", *ACCESSORS):
        return ""
    value = getattr(importlib.import_module(module), name)
    if (
        name in public_names("xdiffda")
        and getattr(importlib.import_module("xdiffda"), name) is value
    ):
        return f"xdiffda.{name}"
    home = getattr(value, "__module__", module)
    listed = {other for other, _ in blocks(folder)}
    if home != module and home in listed and name in public_names(home):
        return f"{home}.{name}"
    return ""


def is_constant(module: str, name: str) -> bool:
    """Whether a name is neither a class nor a function."""
    if module in ACCESSORS:
        return False
    value = getattr(importlib.import_module(module), name)
    # type aliases have no name, or another one
    return not callable(value) or getattr(value, "__name__", None) != name


def described(module: str, names: list[str], folder: Path) -> list[str]:
    """Names that have a page of their own."""
    return [n for n in names if not is_constant(module, n) and not alias_of(module, n, folder)]


def summary(module: str, names: list[str], folder: Path, *, toctree: str) -> str:
    """Markdown: a table of names with their first lines, linked to the page of each."""
    own = described(module, names, folder)
    lines = []
    if own:
        lines += ["```{eval-rst}", *_autosummary(module, own, toctree), "```", ""]
    for name in names:
        if name in own:
            continue
        if same := alias_of(module, name, folder):
            lines.append(f"- `{module}.{name}` is {{py:obj}}`{same}`")
            continue
        value = getattr(importlib.import_module(module), name)
        kind = "type" if inspect.isclass(value) else type(value).__name__
        short = f": {value}" if isinstance(value, str) else ""
        lines.append(f"- `{module}.{name}` ({kind}){short}")
    return "\n".join(lines)


def _autosummary(module: str, names: list[str], toctree: str) -> list[str]:
    home, options, prefix = module, [f"   :toctree: {toctree}"], ""
    if module in ACCESSORS:
        home, prefix = "xarray", module.removeprefix("xarray.") + "."
        options.append("   :template: autosummary/accessor_method.rst")
    rows = [f"   {prefix}{name}" for name in names]
    return [f".. currentmodule:: {home}", "", ".. autosummary::", *options, "", *rows, ""]


def documented(folder: Path) -> dict[str, list[str]]:
    """Module -> names that the reference describes."""
    found: dict[str, list[str]] = {}
    for module, content in blocks(folder):
        found.setdefault(module, []).extend(expand(module, content, folder))
    return found


def listing(folder: Path) -> str:
    """reStructuredText that names everything that gets a page of its own."""
    lines = []
    for module, names in documented(folder).items():
        own = described(module, names, folder)
        if own:
            lines += _autosummary(module, own, "api")
    return "\n".join(lines)
