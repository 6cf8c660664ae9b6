"""Packaging information of cubicweb-hasite, as CubicWeb reads it.

The version is written here, since a running instance looks at this file to see which version is
on disk. All else is what pyproject.toml says, as the installed package has it.
"""

import re
from importlib.metadata import metadata, requires

modname = "cubicweb_hasite"
distname = "cubicweb-hasite"

version = "0.2.0"
numversion = tuple(int(number) for number in version.split("."))

_metadata = metadata(distname)
_urls = dict(url.split(", ") for url in _metadata.get_all("Project-URL") or ())

description = _metadata["Summary"]
license = _metadata["License-Expression"]
author = _metadata["Author"]
web = _urls["Repository"]

#: the URL under which the documents are
documentation = _urls["Documentation"]


def _required(extra: str = "") -> dict[str, str]:
    """Return what an extra needs, by name: the versions, such as "<5,>=4.2".

    :param extra: its name; by default, what is always needed
    """
    found = (re.split(" *; *", each) for each in requires(distname) or ())
    return dict(
        re.split("(?=[<>=])", requirement, maxsplit=1)
        for requirement, *marker in found
        if marker == ([f'extra == "{extra}"'] if extra else [])
    )


__depends__ = _required()
# Not needed, since an instance may have a front end of its own over cubicweb-api. Where an
# instance has them, CubicWeb orders the cubes so that ours extends them.
__recommends__ = _required("web")
