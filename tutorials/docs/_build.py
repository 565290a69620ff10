"""The Sphinx side: the directive ``made``, a page for every public name, the notebooks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import _names
import _tables
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.autosummary.generate import generate_autosummary_docs
from sphinx.util.docutils import SphinxDirective

API = "api"


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
        return node.children


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
    return {"parallel_read_safe": True}
