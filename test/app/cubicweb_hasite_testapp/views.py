"""A form with an image inside another entity's."""

from cubicweb_web.views import uicfg

uicfg.autoform_section.tag_subject_of(("Article", "cover", "File"), "main", "inlined")
