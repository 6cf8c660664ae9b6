"""Where the data of files is kept."""

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
