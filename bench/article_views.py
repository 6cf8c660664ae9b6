"""The article's monitors, ported to CubicWeb 5 name by name; see `bench/monitors`.

They are the `views.py` of an instance, where CubicWeb looks for views of its own. What differs
from the article is what CubicWeb has no more: `yes`, `View` and the registries' attributes have
new names; the pool is `cnxsets`; the versions of the database are `repo.get_versions()`.
"""

from socket import gethostname

from cubicweb_web.view import View
from logilab.common.registry import yes


class _MonitoringView(View):
    __abstract__ = True
    __select__ = yes()
    content_type = "text/plain"
    templatable = False


class PoolMonitoringView(_MonitoringView):
    __regid__ = "monitor_pool"

    def call(self):
        repo = self._cw.cnx.repo
        max_pool = self._cw.vreg.config["connections-pool-max-size"]
        in_use = repo.cnxsets.size() - repo.cnxsets.qsize()
        self.w(f"{in_use * 100.0 / max_pool}%")


class DBMonitoringView(_MonitoringView):
    __regid__ = "monitor_db"

    def call(self):
        try:
            count = self._cw.execute("Any COUNT(X) WHERE X is CWUser")[0][0]
            self.w(f"ServiceOK : {count} users in DB")
        except Exception:
            self.w("ServiceKO")


class VersionMonitoringView(_MonitoringView):
    __regid__ = "monitor_version"

    def versions_text(self, versions):
        return " | ".join(f"{cube}: {version}" for cube, version in versions)

    def call(self):
        config = self._cw.vreg.config
        vc_config = self._cw.cnx.repo.get_versions()
        db_config = [("cubicweb", vc_config.get("cubicweb", "?"))]
        fs_config = [("cubicweb", config.cubicweb_version())]
        for cube in sorted(config.cubes()):
            db_config.append((cube, vc_config.get(cube, "?")))
            try:
                fs_version = config.cube_version(cube)
            except Exception:
                fs_version = "?"
            fs_config.append((cube, fs_version))
        db_config = self.versions_text(db_config)
        fs_config = self.versions_text(fs_config)
        if db_config == fs_config:
            self.w(f"ServiceOK : FS config {fs_config} == DB config {db_config}")
        else:
            self.w(f"ServiceKO : FS config {fs_config} !$ DB config {db_config}")


class HostnameMonitoringView(_MonitoringView):
    __regid__ = "monitor_hostname"

    def call(self):
        self.w(gethostname())
