"""Packaging information, as CubicWeb reads it."""

modname = "cubicweb_hasite_news"
distname = "cubicweb-hasite-news"

numversion = (0, 1, 0)
version = ".".join(str(num) for num in numversion)

license = "LGPL-2.1-or-later"
description = "A cube that is upgraded by the tests of cubicweb-hasite"
author = "The cubicweb-hasite developers"
author_email = ""
web = ""

__depends__ = {"cubicweb": ">= 5.0.1", "cubicweb-hasite": None, "cubicweb-file": None}
__recommends__ = {}
