"""Configuration of the documentation site, built by `make docs`: PyData theme, MyST-NB, numpydoc, autosummary."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402
import llms  # noqa: E402

generate.write_all()

project, author, language = "sagips_kit", "sagips_kit developers", "en"
version = release = installed("sagips_kit")
copyright = author

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "mathml",
    "numpydoc",
    "myst_nb",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = generate.figures()
nb_execution_mode = "off"  # notebooks are shown as they are stored
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]

default_role = "literal"  # `names` in docstrings
autosummary_generate = True
autodoc_typehints = "none"  # docstrings give shapes and units, which annotations cannot
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

html_math_renderer, myst_update_mathjax = "mathml", False
html_theme = "pydata_sphinx_theme"
html_title = "sagips_kit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {"start": [], "generated/figures": []}
html_theme_options = {
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
html_context = {"default_mode": "auto"}

linkcheck_timeout = 20
linkcheck_anchors = False
linkcheck_ignore = [r"https://ui\.perfetto\.dev.*"]  # needs JavaScript


def setup(app):
    app.connect("build-finished", llms.write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
