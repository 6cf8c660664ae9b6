"""The users that a process remembers, and whether they may still be logged in.

CubicWeb looks at the state of a user when they log in, and remembers what it has read of them
until the process ends (`cached_build_user` in cubicweb.pyramid.tools).
"""

import threading
from collections import OrderedDict
from typing import Any

from cubicweb.entities.authobjs import CWUser
from cubicweb.pyramid import core, tools
from cubicweb.server.repository import Repository
from pyramid.config import Configurator
from pyramid.events import ApplicationCreated
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite.coherence import passwords
from cubicweb_hasite.standbys import visits

#: how many users a process remembers
_MAX_USERS = 100

_STATE = """
    SELECT cw_CWGroup.cw_name, cw_State.cw_name, cw_upassword FROM cw_CWUser
    JOIN in_group_relation ON in_group_relation.eid_from = cw_CWUser.cw_eid
    JOIN cw_CWGroup ON cw_CWGroup.cw_eid = in_group_relation.eid_to
    LEFT JOIN in_state_relation ON in_state_relation.eid_from = cw_CWUser.cw_eid
    LEFT JOIN cw_State ON cw_State.cw_eid = in_state_relation.eid_to
    WHERE cw_CWUser.cw_eid = %(user)s
"""


class Users:
    """Users by their eids, with their languages; the least recently used are forgotten first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int, int], tuple[CWUser, str]] = OrderedDict()
        self._changes = 0

    def get(self, repo: Repository, eid: int | str) -> tuple[CWUser, str]:
        """Return a user and their language, from the database if they are not known.

        It takes the place of `cubicweb.pyramid.tools.cached_build_user`.

        :raises Exception: there is no such user.
        """
        key = id(repo), int(eid)
        with self._lock:
            changes = self._changes
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        current = True
        try:
            with visits.on_primary():
                user, language = _build(repo, key[1])
        except Exception:
            if not visits.reads_standby():
                raise
            # the primary cannot be asked, or has no such user any more
            user, language = _build(repo, key[1])
            current = False
        with self._lock:
            # else it may have been read before a change
            if current and changes == self._changes:
                self._known[key] = user, language
                if len(self._known) > _MAX_USERS:
                    self._known.popitem(last=False)
        return user, language

    def forget(self) -> None:
        """Forget all users, and those that are being read."""
        with self._lock:
            self._changes += 1
            self._known.clear()


def _build(repo: Repository, eid: int) -> tuple[CWUser, str]:
    with repo.internal_cnx() as cnx:
        built = repo._build_user(cnx, eid)
        language = built.prefered_language()
        built.cw_clear_relation_cache()
        return tools.clone_user(repo, built), language


USERS = Users()


def includeme(config: Configurator) -> None:
    """Let users that have changed be read again, and let those who are gone be logged out."""
    tools.cached_build_user = USERS.get
    config.add_subscriber(_ask_for_the_state, ApplicationCreated)


def _ask_for_the_state(event: ApplicationCreated) -> None:
    policy = event.app.registry.get("cubicweb.authpolicy")
    # an application may have a policy of its own
    if getattr(policy, "_callback", None) is core.get_principals:
        policy._callback = principals
        if event.app.registry["cubicweb.config"]["hasite-password-ends-sessions"]:
            passwords.remember_tokens(policy)


def principals(userid: int | str, request: Request) -> set[str] | None:
    """Return the groups of a user, None if the user may not be logged in any longer.

    That is if the user is deleted or deactivated, or has another password than at the login. The
    visitor is anonymous then, and the response removes the cookies.

    It takes the place of `cubicweb.pyramid.core.get_principals`, and asks for all in one query.
    """
    repo = request.registry["cubicweb.repository"]
    with repo.internal_cnx() as cnx:
        rows = cnx.system_sql(_STATE, {"user": int(userid)}).fetchall()
    states = {state for _group, state, _password in rows}
    if (
        not rows
        or (repo.config.consider_user_state and not states <= _may_log_in(repo))
        or (
            repo.config["hasite-password-ends-sessions"]
            and not passwords.is_valid(request, rows[0][2])
        )
    ):
        _log_out(request)
        return None
    request._cw_cached_session = core.repo_connect(request, repo, eid=userid)
    return {group for group, _state, _password in rows}


def _may_log_in(repo: Repository) -> set[str | None]:
    user_class: Any = repo.vreg["etypes"].etype_class("CWUser")
    return {None, *user_class.AUTHENTICABLE_STATES}


def _log_out(request: Request) -> None:
    """Let the response remove the cookies by which the visitor was logged in."""
    if getattr(request, "_hasite_logged_out", False):
        return
    request._hasite_logged_out = True
    visits.doubt("logged out")  # a standby may not know the user, or the password, yet
    headers = request.registry["cubicweb.authpolicy"].forget(request)

    def remove(_request: Request, response: Response) -> None:
        response.headerlist.extend(headers)

    request.add_response_callback(remove)
