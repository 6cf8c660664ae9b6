"""Configuration of Sphinx, which builds the documentation as a web site: `make docs`."""

from cubicweb_hasite.__pkginfo__ import version

project = "cubicweb-hasite"
author = "The cubicweb-hasite developers"
release = version

extensions = ["myst_parser"]
#: headings that links may lead to, as GitLab names them
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_copyright = False
