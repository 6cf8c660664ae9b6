"""Where the data of files is kept, and a transaction that is rolled back at its end."""

from cubicweb import ValidationError
from cubicweb.predicates import is_instance
from cubicweb.server import hook
from cubicweb.server.sources.storages import BytesFileSystemStorage, set_attribute_storage


class StorageHook(hook.Hook):
    """Keep the data of files in the directory or the bucket that an option names."""

    __regid__ = "testapp.storage"
    events = ("server_startup", "server_maintenance")

    def __call__(self) -> None:
        directory = self.repo.config["testapp-files-directory"]
        if directory:
            set_attribute_storage(self.repo, "File", "data", BytesFileSystemStorage(directory))
        bucket = self.repo.config["testapp-bucket"]
        if bucket:
            from cubicweb_s3storage.storages import S3Storage

            set_attribute_storage(self.repo, "File", "data", S3Storage(bucket))


class RollBackOp(hook.SingleLastOperation):
    """Fails after all other operations have prepared the commit."""

    def precommit_event(self) -> None:
        raise ValidationError(None, {None: "rolled back"})


class RollBackHook(hook.Hook):
    """Roll back a transaction that adds a tag of this name."""

    __regid__ = "testapp.roll_back"
    __select__ = hook.Hook.__select__ & is_instance("Tag")
    events = ("after_add_entity",)

    def __call__(self) -> None:
        if self.entity.name == "rolled back":
            RollBackOp(self._cw)
