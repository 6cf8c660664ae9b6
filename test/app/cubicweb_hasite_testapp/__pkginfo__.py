"""Packaging information of the test application, as CubicWeb reads it."""

modname = "cubicweb_hasite_testapp"
distname = "cubicweb-hasite-testapp"

numversion = (0, 1, 0)
version = ".".join(str(num) for num in numversion)

license = "LGPL-2.1-or-later"
description = "The application that the tests of cubicweb-hasite run"
author = "The cubicweb-hasite developers"
author_email = ""
web = ""

__depends__ = {
    "cubicweb": ">= 5.0.1, < 6.0.0",
    "cubicweb-web": ">= 1.6.2, < 2.0.0",
    "cubicweb-hasite": None,
    "cubicweb-file": ">= 4.2.0, < 5.0.0",
    "cubicweb-comment": ">= 3.1.0",
    "cubicweb-folder": ">= 3.1.0",
    "cubicweb-tag": ">= 3.1.0",
}
__recommends__ = {}
