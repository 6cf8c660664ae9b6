"""Packaging information of cubicweb-hasite, as CubicWeb reads it."""

modname = "cubicweb_hasite"
distname = "cubicweb-hasite"

numversion = (0, 1, 0)
version = ".".join(str(num) for num in numversion)

license = "LGPL-2.1-or-later"
description = "Make a CubicWeb site highly available: cacheable images, honest monitors"
author = "The cubicweb-hasite developers"
author_email = ""
web = ""

__depends__ = {
    "cubicweb": ">= 5.0.1, < 6.0.0",
    "cubicweb-web": ">= 1.6.2, < 2.0.0",
    "cubicweb-file": ">= 4.2.0, < 5.0.0",
}
__recommends__ = {}
