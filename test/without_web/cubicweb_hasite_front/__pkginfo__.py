"""Packaging information of the application without cubicweb-web, as CubicWeb reads it."""

modname = "cubicweb_hasite_front"
distname = "cubicweb-hasite-front"

numversion = (0, 1, 0)
version = ".".join(str(num) for num in numversion)

license = "LGPL-2.1-or-later"
description = "An application without cubicweb-web"
author = "The cubicweb-hasite developers"
author_email = ""
web = ""

__depends__ = {
    "cubicweb": ">= 5.0.1, < 6.0.0",
    "cubicweb-api": None,
}
__recommends__ = {}
