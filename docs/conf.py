"""Settings of the site.

From the root of the repository: pip install -e ".[docs]", and

    python -m sphinx -W --keep-going -b html docs docs/_build/html

Nothing is fetched while it builds. Pages that begin with a kernel are run.
"""

import smoothl1

project = "smoothl1"
author = "smoothl1 developers"
version = release = smoothl1.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
default_role = "autolink"  # names in docstrings: a link if they can be imported

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"  # the library may have changed, if not the page
nb_execution_raise_on_error = True
nb_execution_timeout = 120  # seconds for a cell
nb_merge_streams = True

autosummary_generate = False  # all of it is on one page
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the docstrings
numpydoc_show_class_members = False  # autodoc shows them
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"smoothl1 {release}"
html_show_copyright = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_prev_next": False,
    "show_toc_level": 2,
}
