"""The Sphinx side: the directive ``made``, a page for every public name, the notebooks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import _names
import _tables
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry
from sphinx.environment import BuildEnvironment
from sphinx.ext.autosummary.generate import generate_autosummary_docs
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

API = "api"
_ANY = frozenset({"class", "exception", "function", "method", "property", "attribute"})


class Made(SphinxDirective):
    """Text that is made from the code: ``{made} variables``, ``{made} names xdiffda.verify``.

    Markdown comes from a function of `_tables`, or a table of names from `_names`.
    """

    required_arguments = 1
    optional_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        what, *rest = self.arguments
        self.env.note_reread()  # the code may change where the page does not
        if what == "names":
            folder = Path(self.env.srcdir)
            chosen = _names.expand(rest[0], list(self.content), folder)
            text = _names.summary(rest[0], chosen, folder, toctree=f"../{API}")
        elif what in _tables.MADE:
            text = _tables.MADE[what](*rest)
        else:
            raise self.error(f"made {what!r}: not one of names, {', '.join(_tables.MADE)}")
        node = nodes.container()
        lines = StringList(text.splitlines(), source=f"made {what}")
        self.state.nested_parse(lines, self.content_offset, node)
        return self._note_module(rest[0], node) if what == "names" else node.children

    def _note_module(self, module: str, node: nodes.Element) -> list[nodes.Node]:
        """Let links to a module lead to the first table of its names."""
        python = self.env.domains.python_domain
        if module in python.modules or module in _names.ACCESSORS:
            return node.children
        node["ids"] = [at := f"module-{module}"]
        python.note_module(module, at, synopsis="", platform="", deprecated=False)
        python.note_object(module, "module", at, location=node)
        return [node]


def write_stubs(app: Sphinx) -> None:
    """Write one page for each public name; autosummary finds only names written in pages."""
    folder = Path(app.srcdir) / API
    listing = Path(app.doctreedir) / "names.rst"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text(_names.listing(Path(app.srcdir)), encoding="utf-8")
    made = generate_autosummary_docs([str(listing)], output_dir=folder, suffix=".rst", app=app)
    for stale in set(folder.glob("*.rst")) - {Path(path) for path in made}:
        stale.unlink()


def skip_member(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what Python writes itself: fields of named tuples."""
    doc = getattr(obj, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def find_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Link `assimilate` from everywhere, where one public thing only has that last name.

    A word alone means a class or function; methods are found by ``Class.method``.
    """
    target = node["reftarget"]
    if node.get("reftype") != "obj":
        return None
    kinds = _ANY if "." in target else _ANY - {"method", "property", "attribute"}
    found = {
        name: entry
        for name, kind, entry in _objects(env)
        if name.endswith(f".{target}") and kind in kinds
    }
    if len(found) != 1:
        return None
    ((name, entry),) = found.items()
    page = node["refdoc"]
    return make_refnode(app.builder, page, entry.docname, entry.node_id, content, name)


def _objects(env: BuildEnvironment) -> Iterator[tuple[str, str, ObjectEntry]]:
    for name, entry in env.domains.python_domain.objects.items():
        if not entry.aliased:
            yield name, entry.objtype, entry


def mend_literals(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Let ``a``[, ``b``] be two literals, as they are read, not one."""
    lines[:] = [line.replace("``[", "``\\ [") for line in lines]


def copy_notebooks(source: Path, target: Path) -> None:
    """Copy the tutorials, as committed, to where Sphinx finds them."""
    target.mkdir(parents=True, exist_ok=True)
    wanted = {path.name: path for path in source.glob("*.ipynb")}
    for old in target.glob("*.ipynb"):
        if old.name not in wanted:
            old.unlink()
    for name, path in wanted.items():
        copy = target / name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of it."""
    app.add_directive("made", Made)
    app.connect("builder-inited", write_stubs)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", mend_literals)
    app.connect("missing-reference", find_by_last_name)
    return {"parallel_read_safe": True}
