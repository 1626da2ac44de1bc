"""Sphinx configuration."""

import spec2fn

project = "spec2fn"
author = "the spec2fn developers"
copyright = "2026, the spec2fn developers"
version = release = spec2fn.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"spec2fn {release}"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False
suppress_warnings = ["myst.xref_missing"]
