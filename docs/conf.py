"""The documentation: notebooks as they are saved, pages made from the code, and pages written by hand."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from pages import write_pages  # noqa: E402

import clipsent_nb  # noqa: E402

write_pages(HERE / "made")

project = "clipsent_nb"
author = copyright = "The clipsent_nb authors"
release = clipsent_nb.__version__
extensions = ["myst_nb"]
nb_execution_mode = "off"  # the tests execute the notebooks
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
smartquotes = False  # flags begin with two hyphens
# Notebooks begin with cells that are no headings, and their output may be a page of its own.
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "misc.highlighting_failure"]
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = "clipsent_nb"
html_show_sourcelink = False
linkcheck_timeout = 10
