"""Workarounds for bugs of CubicWeb. Each applies up to the last version known to have the bug.

The lines are those of cubicweb 5.0.1. For cubicweb-web see :mod:`cubicweb_hasite.upstream_web`.
"""

from collections.abc import Container
from importlib.metadata import version
from typing import Any

from cubicweb import UnknownEid
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.entities.authobjs import CWUser, user_session_cache_key
from cubicweb.pyramid.resources import negociate_mime_type
from cubicweb.rdf import RDF_MIMETYPE_TO_FORMAT
from cubicweb.server.repository import Repository
from cubicweb.server.session import Connection
from logilab.common.changelog import Version
from logilab.common.decorators import cached
from pyramid.config import Configurator
from pyramid.events import ApplicationCreated
from pyramid.interfaces import IRoutesMapper
from pyramid.request import Request
from pyramid.settings import aslist

from cubicweb_hasite.images.replacement import stored_type
from cubicweb_hasite.images.visibility import load_user

_CUBICWEB = Version(version("cubicweb"))


def speed_up(config: Configurator, speed_ups: Container[str]) -> None:
    """Spare requests what CubicWeb does again and again (option `hasite-speed-ups`).

    :func:`upstream_web.remember_source_lines` is the speed-up that needs cubicweb-web.

    :param speed_ups: the speed-ups that are on, as :func:`options.speed_ups` returns them
    """
    if "hasite-remember-options" in speed_ups:
        remember_options()
    if "hasite-load-users-at-once" in speed_ups:
        load_users_at_once()
    if "hasite-look-up-rdf-on-demand" in speed_ups:
        config.add_subscriber(look_up_rdf_on_demand, ApplicationCreated)


def remember_options() -> None:
    """Look up an option of an instance in the environment once, not at each use.

    `CubicWebConfiguration.__getitem__` (cubicweb/cwconfig.py, lines 934 to 941) looks for an
    environment variable, goes through the list of all options and validates the value, 70 times
    in a page. That is up to 7 % of its CPU time. A value that the process sets itself is seen at
    once.
    """
    if Version("5.0.1") >= _CUBICWEB:
        CubicWebConfiguration.__getitem__ = _remembered_option


_stock_option = CubicWebConfiguration.__getitem__


def _remembered_option(config: CubicWebConfiguration, name: str) -> Any:
    # with the attribute that holds it, because to find that goes through the list
    known = vars(config).setdefault("_hasite_options", {})
    if name in known:
        attribute, stored, value = known[name]
        if getattr(config.config, attribute) is stored:
            return value
    value = _stock_option(config, name)
    attribute = config.option_attrname(name)
    known[name] = attribute, getattr(config.config, attribute), value
    return value


def load_users_at_once() -> None:
    """Load the groups and the properties of a user by one SQL query in each transaction.

    Each page uses `CWUser.groups`, `CWUser.properties` and `CWUser.owns`
    (cubicweb/entities/authobjs.py, lines 56 to 88 and 156 to 165), which take an RQL query each.
    That is 2 to 6 % of the CPU time of a page for the first two, and 5 % for the last.
    """
    if Version("5.0.1") >= _CUBICWEB:
        CWUser.groups, CWUser.properties = _user_data("groups"), _user_data("properties")
        CWUser.owns = cached(_owns, keyarg=1)


def _user_data(name: str) -> property:
    def get(user: CWUser) -> Any:
        cnx = getattr(user._cw, "cnx", user._cw)  # of a web request
        key = user_session_cache_key(user.eid, name)
        if key not in cnx.transaction_data:
            load_user(cnx, user.eid)
        return cnx.transaction_data[key]

    return property(get)


_stock_owns = CWUser.owns


def _owns(user: CWUser, eid: int | str) -> bool:
    if isinstance(eid, str):  # of a form whose entity does not exist yet
        return bool(_stock_owns(user, eid))
    cnx = getattr(user._cw, "cnx", user._cw)
    owner = cnx.system_sql(
        "SELECT 1 FROM owned_by_relation WHERE eid_from=%(x)s AND eid_to=%(u)s",
        {"x": eid, "u": user.eid},
    ).fetchone()
    # for CubicWeb, users do not own what they may not read
    return owner is not None and bool(_stock_owns(user, eid))


# of the REST API (cubicweb/pyramid/rest_api.py)
_RDF_ROUTES = ("one_entity", "one_entity_eid")


def look_up_rdf_on_demand(event: ApplicationCreated) -> None:
    """Fetch an entity for its RDF only if the visitor asks for RDF.

    `cubicweb-ctl create` switches on routes of CubicWeb's REST API that serve RDF. They match the
    page of each entity too: they fetch the entity twice before they leave the request to
    cubicweb_web (cubicweb/pyramid/predicates.py, lines 52 to 98, and resources.py, lines 75 to
    89). That is 8 % of the CPU time of the page of an entity.

    Nothing changes if the REST API serves pages too.
    """
    registry = event.app.registry
    includes = aslist(registry.settings.get("cubicweb.includes", ""))
    if Version("5.0.1") < _CUBICWEB or "cubicweb.pyramid.rest_api.include_html" in includes:
        return
    for route in registry.getUtility(IRoutesMapper).get_routes():
        if route.name in _RDF_ROUTES:
            route.predicates = [_asks_for_rdf, *route.predicates]


def _asks_for_rdf(_match: dict[str, Any], request: Request) -> bool:
    return negociate_mime_type(request, RDF_MIMETYPE_TO_FORMAT) is not None


def look_types_up(repo: Repository) -> None:
    """Report a database that is down as such, not as one without the entity.

    `NativeSQLSource.eid_type` (cubicweb/server/sources/native.py, lines 975 to 984) raises
    `UnknownEid` after any error. Users then seem to be deleted, which is an error 500.
    """
    source = repo.system_source
    if Version("5.0.1") >= _CUBICWEB and source.dbdriver == "postgres":
        source.eid_type = _eid_type


def _eid_type(cnx: Connection, eid: int) -> str:
    etype = stored_type(cnx, eid)
    if etype is None:
        raise UnknownEid(eid)
    return etype
