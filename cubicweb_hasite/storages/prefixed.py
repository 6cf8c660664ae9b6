"""A bucket of S3 in which the names of objects begin with a prefix."""

from cubicweb.entity import Entity
from cubicweb_s3storage.storages import S3Storage


class PrefixedStorage(S3Storage):
    """A storage of cubicweb-s3storage with a prefix.

    :param prefix: such as `mysite/`; it may be empty
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        super().__init__(bucket)
        self.prefix = prefix

    def new_s3_key(self, entity: Entity, attr: str) -> str:
        """Return the name of a new object."""
        return f"{self.prefix}{super().new_s3_key(entity, attr)}"
