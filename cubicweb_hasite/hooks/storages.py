"""Keep data where the options of the instance say."""

from cubicweb.server import hook

from cubicweb_hasite.hooks import CATEGORY
from cubicweb_hasite.storages import keeping


class KeepInBucketHook(hook.Hook):
    """Keep data in a bucket of S3. The application's hooks come later and may choose another."""

    __regid__ = "hasite.keep_in_bucket"
    events = ("server_startup", "server_maintenance")
    category = CATEGORY
    order = -1

    def __call__(self) -> None:
        keeping.keep(self.repo, maintenance=self.event == "server_maintenance")
