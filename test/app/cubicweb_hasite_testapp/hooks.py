"""Where the data of files is kept."""

from cubicweb.server import hook
from cubicweb.server.sources.storages import BytesFileSystemStorage, set_attribute_storage


class FilesDirectoryHook(hook.Hook):
    """Keep the data of files in the directory that an option names."""

    __regid__ = "testapp.files_directory"
    events = ("server_startup", "server_maintenance")

    def __call__(self) -> None:
        directory = self.repo.config["testapp-files-directory"]
        if directory:
            set_attribute_storage(self.repo, "File", "data", BytesFileSystemStorage(directory))
