# ruff: noqa: E402  (the path comes first)
"""The documentation site: Sphinx, pages in Markdown, tables and lists made from the code.

From the root of the repository, with the extra ``docs``:

    sphinx-build -W --keep-going tutorials/docs build/docs
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import _build
import _tables
from sphinx_autosummary_accessors import templates_path as accessor_templates

import xdiffda

project = "xdiffda"
author = "The xdiffda developers"
copyright = "the xdiffda developers, Apache-2.0"
version = release = xdiffda.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autosummary_accessors",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates", accessor_templates]
default_role = "py:obj"  # in docstrings, `name` is a link where there is such a name

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = _tables.substitutions()
nb_execution_mode = "off"  # as committed: tests/documentation/test_tutorials.py runs them
nb_merge_streams = True
nb_render_markdown_format = "myst"  # CommonMark has no tables

autosummary_generate = False  # `_build.write_stubs` does, for names that come from the code
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
# a word in a docstring that is the name of several things is a link to one of them
suppress_warnings = ["ref.python"]
# a `name` that is nowhere in the reference is a warning; types of parameters are words as well
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"xdiffda {release}"
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False
html_copy_source = False
# MathJax from a mirror or a local copy, where pages are read without a network
if os.environ.get("MATHJAX_PATH"):
    mathjax_path = os.environ["MATHJAX_PATH"]

for folder in ("", "experiments"):
    _build.copy_notebooks(HERE.parent / folder, HERE / "notebooks" / folder)
setup = _build.setup
