"""The article's code, ported to CubicWeb 5 name by name.

It is the `views.py` of an instance, where CubicWeb looks for views of its own. What differs from
the article is what CubicWeb has no more: `yes`, `View` and the registries' attributes have new
names; images are files; the pool is `cnxsets`; the versions of the database are
`repo.get_versions()`. And what fails: the edited entity of a form of one entity is not in a list,
and a dictionary is not to be changed while it is gone through.
"""

from socket import gethostname

from cubicweb_web import httpcache
from cubicweb_web.view import View
from cubicweb_web.views.editcontroller import EditController
from cubicweb_web.views.idownloadable import DownloadView
from logilab.common.registry import yes


class CustomEditController(EditController):
    __select__ = EditController.__select__ & yes()

    def handle_updated_image(self, old_eid):
        """Make the submitted form create an entity in place of `old_eid`."""
        old_eid = str(old_eid)
        form = self._cw.form
        new_eid = next(self._cw.varmaker)
        # handle image eid
        del form[f"__type:{old_eid}"]
        form[f"__type:{new_eid}"] = "File"
        # handle eid list
        eids = form["eid"] if isinstance(form["eid"], list) else [form["eid"]]
        form["eid"] = [new_eid if eid == old_eid else eid for eid in eids]
        # handle attribute and relations
        for key, value in list(form.items()):
            if value == old_eid:
                form[key] = new_eid
            if key.endswith(f":{old_eid}"):
                form[key[: -len(old_eid)] + new_eid] = form.pop(key)

    def _default_publish(self):
        # image creation when image data was updated, for a far expiry date on the download view
        images = []
        for key, value in list(self._cw.form.items()):
            if value != "File" or not key.startswith("__type"):
                continue
            try:
                eid = int(key[7:])
            except ValueError:
                continue
            if self._cw.form.get(f"data-subject:{eid}"):
                self.handle_updated_image(eid)
                images.append(eid)
        super()._default_publish()
        for eid in images:
            self._cw.execute("DELETE File I WHERE I eid %(eid)s", {"eid": eid})


class CustomDownloadView(DownloadView):
    __select__ = DownloadView.__select__ & yes()
    http_cache_manager = httpcache.MaxAgeHTTPCacheManager
    cache_max_age = 3600


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
