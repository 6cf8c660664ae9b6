"""The monitors as CubicWeb views, for applications that embed them.

Monitoring systems are answered by :mod:`cubicweb_hasite.monitoring.routes`, which need neither a
connection nor a session.
"""

from cubicweb_web.view import View
from logilab.common.registry import yes

from cubicweb_hasite.caches import policy
from cubicweb_hasite.monitoring import answers, probes


class MonitorView(View):
    """Writes the text of the probe with the same name as the view."""

    __abstract__ = True
    __select__ = yes()
    content_type = "text/plain"
    templatable = False

    def set_http_cache_headers(self) -> None:
        self._cw.set_header("Cache-Control", policy.NO_STORE)

    def call(self) -> None:
        req = self._cw
        headers = {"Authorization": req.get_header("Authorization", "")}
        refusal = answers.refuse(req.vreg.config, req.form, headers, details=False)
        if refusal is not None and not req.user.is_in_group("managers"):
            req.status_out = refusal.status
            self.w(refusal.body.decode(), escape=False)
            return
        reading = probes.read(self.__regid__, req.cnx.repo)
        req.status_out = reading.status
        self.w(reading.text, escape=False)


class PoolMonitorView(MonitorView):
    """How many database connections of the pool are in use, in percent."""

    __regid__ = "monitor_pool"


class DBMonitorView(MonitorView):
    """Whether the database answers."""

    __regid__ = "monitor_db"


class VersionMonitorView(MonitorView):
    """Whether the installed versions are those of the database."""

    __regid__ = "monitor_version"


class HostnameMonitorView(MonitorView):
    """The name of the host, or of the instance."""

    __regid__ = "monitor_hostname"
