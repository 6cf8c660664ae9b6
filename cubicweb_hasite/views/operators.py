"""The page for operators: the state of the site, what is wrong first.

It is a page of its own, without CubicWeb's header and boxes, so that it is readable on a telephone
and asks the database as little as possible.
"""

from collections.abc import Iterable
from datetime import datetime

from cubicweb import Unauthorized, _
from cubicweb.predicates import match_user_groups, none_rset
from cubicweb_web.view import StartupView
from cubicweb_web.views.actions import ManagersAction

from cubicweb_hasite.caches import policy
from cubicweb_hasite.monitoring.overview import Cache, Database, Instance, Overview, look
from cubicweb_hasite.monitoring.problems import problems

VID = "hasite"
_TITLE = _("State of the site")
_KINDS = {
    "backup": _("Last backup"),
    "rehearsal": _("Last rehearsal"),
    "upgrade": _("Last upgrade"),
}

_SCHEMAS = {"same": _("as installed"), "accepted": _("accepted"), "differs": _("differs")}

#: the cells of a row of a table, by the messages of their columns
Row = dict[str, str]


class OperatorsAction(ManagersAction):
    """The link to the page, in the menu of managers."""

    __regid__ = "hasite.operators"
    title = _TITLE
    order = 30

    def url(self) -> str:
        """Return the address of the page."""
        return self._cw.build_url("view", vid=VID)


class OperatorsView(StartupView):
    """The state of the site, for managers."""

    __regid__ = VID
    __select__ = none_rset() & match_user_groups("managers")
    title = _TITLE
    templatable = False

    def set_http_cache_headers(self) -> None:
        self._cw.set_header("Cache-Control", policy.NO_STORE)

    def call(self) -> None:
        req = self._cw
        site = look(req.cnx.repo)
        self.w(
            '<!DOCTYPE html><html lang="%s"><head><meta charset="utf-8" />'
            '<meta name="viewport" content="width=device-width, initial-scale=1" />'
            '<title>%s</title><link rel="stylesheet" href="%s" /></head><body>',
            req.lang,
            req._(_TITLE),
            req.data_url("cubes.hasite.css"),
        )
        self.w(
            '<h1><a href="%s">%s</a> <small>%s</small></h1>',
            req.base_url(),
            req._(_TITLE),
            datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
        )
        self._problems(site)
        self._table(_("Instances"), map(self._instance, site.instances))
        if not site.others_seen:
            self.w("<p>%s</p>", req._("Only the instance that answers is seen."))
        if site.database is not None:
            self._table(_("Database nodes"), self._nodes(site.database))
        self._table(_("Caches that this instance purges"), map(self._cache, site.caches))
        self._table(_("Journal"), self._journal(site))
        self.w("</body></html>")

    def _problems(self, site: Overview) -> None:
        _ = self._cw._
        found = problems(site)
        if not found:
            self.w('<p class="well">%s</p>', _("Nothing is wrong."))
            return
        self.w('<ul class="problems">')
        for problem in found:
            text = _(problem.text) % problem.values
            self.w(
                '<li class="%s">%s <a href="%s">%s</a></li>',
                "urgent" if problem.urgent else "notice",
                text,
                problem.url,
                _("What to do"),
            )
        self.w("</ul>")

    def _table(self, title: str, rows: Iterable[Row]) -> None:
        """Write a table, or nothing if it has no rows."""
        rows = list(rows)
        if not rows:
            return
        _ = self._cw._
        self.w("<h2>%s</h2><table><thead><tr>", _(title))
        for column in rows[0]:
            self.w("<th>%s</th>", _(column))
        self.w("</tr></thead><tbody>")
        for row in rows:
            self.w("<tr>")
            for column, cell in row.items():
                self.w('<td data-column="%s">%s</td>', _(column), cell)
            self.w("</tr>")
        self.w("</tbody></table>")

    def _instance(self, instance: Instance) -> Row:
        tr, told = self._cw._, instance.told
        if told.draining:
            state = tr("draining")
        elif told.reasons:
            state = tr("not ready")
        elif told.degraded:
            state = tr("degraded")
        else:
            state = tr("in service") if told.schema else "?"  # not known yet
        pool = f"{told.in_use} / {told.maximum}" if told.maximum else str(told.in_use)
        heard = "?" if instance.silent is None else self._duration(instance.silent)
        name = f"{instance.name} ({tr('answers')})" if instance.here else instance.name
        return {
            _("Instance"): name,
            _("State"): state,
            _("Versions"): told.versions if told.name else "?",
            _("Schema"): tr(_SCHEMAS.get(told.schema, "?")),
            _("Pool"): pool,
            _("Runs for"): self._duration(told.uptime),
            _("Heard"): tr("%s ago") % heard,
            _("Address"): instance.address or "?",
        }

    def _nodes(self, database: Database) -> list[Row]:
        tr = self._cw._
        if not database.standby:
            state = tr("read-only") if database.read_only else tr("in service")
        elif database.receives:
            state = tr("follows a primary")
        else:
            state = tr("not connected to a primary")
        lag = "" if database.replayed is None else tr("%s ago") % self._duration(database.replayed)
        rows = [
            {
                _("Node"): f"{database.node} (PostgreSQL {database.version})",
                _("Role"): tr("standby") if database.standby else tr("primary"),
                _("State"): state,
                _("Last change"): lag,
                _("Connections"): f"{database.connections} / {database.max_connections}",
            }
        ]
        for replica in database.replicas:
            state = replica.state or (
                tr("connected") if replica.connected else tr("not connected")
            )
            rows.append(
                {
                    "Node": f"{replica.name} {replica.address or ''}",
                    "Role": tr("replica"),
                    "State": state,
                    "Last change": self._behind(replica.behind),
                    "Connections": "",
                }
            )
        return rows

    def _cache(self, cache: Cache) -> Row:
        tr = self._cw._
        if cache.down:
            state = tr("does not answer")
        elif cache.refuses:
            state = tr("refuses purges")
        else:
            state = tr("in service") if cache.sent else tr("nothing to purge yet")
        return {
            _("Cache"): cache.url,
            _("State"): state,
            _("Purges that wait"): str(cache.queued),
            _("Purges sent"): str(cache.sent),
            _("Purges failed"): str(cache.failed),
            _("Purges dropped"): str(cache.dropped),
        }

    def _journal(self, site: Overview) -> Iterable[Row]:
        for kind, title in _KINDS.items():
            entry = site.journal.get(kind)
            if entry is not None:
                yield {
                    _("What"): self._cw._(title),
                    _("When"): entry.when,
                    _("Who"): f"{entry.who}, {entry.host}",
                    _("Command"): entry.what,
                    _("Result"): entry.result,
                }

    def _behind(self, size: int | None) -> str:
        if size is None:
            return "?"
        return self._cw._("%s MB to catch up") % f"{size / 10**6:.1f}" if size else ""

    def _duration(self, seconds: int) -> str:
        """Return a duration in its largest unit."""
        tr = self._cw._
        for unit, message in ((86400, _("%d d")), (3600, _("%d h")), (60, _("%d min"))):
            if seconds >= 2 * unit:
                return tr(message) % (seconds // unit)
        return tr("%d s") % seconds


class RefusedView(StartupView):
    """The same page, refused to those who are not managers."""

    __regid__ = VID
    __select__ = none_rset() & ~match_user_groups("managers")
    category = "hidden"

    def call(self) -> None:
        raise Unauthorized
