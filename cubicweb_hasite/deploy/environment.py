"""The environment of all the templates: what each of them knows of a site."""

import json
import posixpath
import re
import shlex
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cubicweb_hasite import names
from cubicweb_hasite.__pkginfo__ import documentation, version
from cubicweb_hasite.deploy import alerting, limits, tables
from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.site import CHECK_FALL

_TEMPLATES = Path(__file__).parent / "templates"

#: URLs whose answers a shared cache may keep: static files and downloads
CACHEABLE_PATH = rf"{names.STATIC_PATH}|^/([a-z]+/)?[0-9]+(/(raw|thumb)/|/download)"
_CACHEABLE_QUERY = r"^/([a-z]+/)?[0-9]+\?vid=download$"


def environment(site_file: SiteFile) -> Environment:
    """Return the environment of the templates of a site."""
    site = site_file.site
    result = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    result.filters |= {
        "brackets": tables.bracketed,
        "bare": lambda interface: interface.partition("/")[0],
        "dirname": posixpath.dirname,
        "etcd_url": "http://{}:2379".format,
        "json": json.dumps,
        "quote": shlex.quote,
        # Python's True is CubicWeb's yes
        "option": lambda value: (
            {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        ),
        "slot": lambda name: re.sub(r"[^a-z0-9_]", "_", name.lower()),
    }
    certificates = list(tables.certificates(site))
    result.globals |= {
        "site": site,
        "documentation": documentation,
        "made": lambda comment: made(site_file, comment),
        "check_fall": CHECK_FALL,
        "first_site": next(iter(site.sites)),
        "limits": limits,
        "cacheable_path": CACHEABLE_PATH,
        "cacheable_query": _CACHEABLE_QUERY,
        "balancer_addresses": [host.address for host in site.balancers.values()],
        "web_addresses": [host.address for host in site.web.values()],
        "names": names,
        "secrets": alerting.secrets(site),
        "password_file": alerting.PASSWORD_FILE,
        "bare_password_file": alerting.BARE_PASSWORD_FILE,
        "shares_pages": any(web.shares_pages for web in site.sites.values()),
        "tls": bool(certificates),
        "certificates": [path for path, _name in certificates],
        "certificate_hosts": certificates,
        "certified": tables.certified(site),
        "cache_unit": "squid" if site.squid else "varnish",
    }
    return result


def made(site_file: SiteFile, comment: str) -> str:
    """Return the line that says of a file what has made it, from which site file.

    :param comment: how a comment begins in that file
    """
    return (
        f"{comment} Made by hasite-render of cubicweb-hasite {version} from the "
        f"site file {site_file.digest}. Do not edit."
    )
