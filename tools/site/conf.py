"""Sphinx's settings for the site; `tools/site/build.py` calls it."""

project = "preimage"
author = copyright = "the preimage authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
master_doc = "index"
myst_enable_extensions = ["colon_fence", "html_image", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["reference/examples/*"]
default_role = "code"
nitpicky = True
add_module_names = False
toc_object_entries = False
highlight_language = "none"

html_theme = "furo"
html_title = "preimage"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
