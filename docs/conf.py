"""How `make docs` builds the site: Sphinx reads the Markdown pages with MyST and shows them in the Furo theme."""

from dataclasses import is_dataclass
from typing import Any

from sphinx.application import Sphinx

import mixsweep

project = "mixsweep"
author = "mixsweep's authors"
version = release = mixsweep.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["results/*/*"]  # figures and tables; results/README.md is a page

myst_heading_anchors = 3  # links to headings work as they do in a plain Markdown viewer

default_role = "code"  # docstrings write `name` for code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"mixsweep {release}"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["mixsweep.css"]
templates_path: list[str] = []
pygments_style = "default"

_docstrings: dict[str, list[str]] = {}


def _without_fields(app: Sphinx, what: str, name: str, obj: Any, *rest: Any) -> tuple[str, None] | None:
    """No signature for a dataclass: its fields follow, with types and defaults."""
    return ("", None) if what == "class" and is_dataclass(obj) else None


def _keep(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    _docstrings[name] = list(lines)


def _put_back(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo Napoleon on attributes: it takes the text before a colon for a type."""
    if what in ("property", "attribute"):
        lines[:] = _docstrings[name]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", _without_fields)
    app.connect("autodoc-process-docstring", _keep, priority=100)
    app.connect("autodoc-process-docstring", _put_back, priority=900)
