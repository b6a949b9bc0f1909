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
python_maximum_signature_line_length = 90
toc_object_entries = False
highlight_language = "none"

html_theme = "pydata_sphinx_theme"
html_title = "preimage"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
