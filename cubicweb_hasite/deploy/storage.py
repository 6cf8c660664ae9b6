"""The section of a site file about the storage of data, where this is not the database."""

from urllib.parse import urlsplit

from pydantic import Field

from cubicweb_hasite.deploy.sections import Section
from cubicweb_hasite.deploy.values import AbsolutePath, AttributeName, BucketName, Endpoint


class Storage(Section):
    """A bucket of S3, in which the data of files is kept and not in the database. It needs the
    cube `s3storage`. The key to the bucket is in the secrets file of each site on the web
    servers."""

    bucket: BucketName
    """Name of the bucket, which is there already."""
    endpoint: Endpoint | None = None
    """Address of the object store, such as https://s3.example.org; by default that of Amazon."""
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]+$")
    """Region of the bucket, as its object store calls it."""
    prefix: str = Field(default="", pattern=r"^([\w.-]+/)*$")
    """What the names of objects begin with, such as "production/"; the name of the site and a
    slash follow."""
    attributes: list[AttributeName] = Field(default=["File.data"], min_length=1)
    """The attributes of type `Bytes` whose data is kept in the bucket."""
    authority: AbsolutePath | None = None
    """Certificate in PEM, on the web servers, of the authority that the object store's own
    certificate is of; by default one of those that browsers know."""

    @property
    def host(self) -> str:
        """Host name of the object store."""
        amazon = f"s3.{self.region}.amazonaws.com"
        return urlsplit(self.endpoint).hostname or "" if self.endpoint else amazon

    @property
    def port(self) -> int:
        """TCP port of the object store."""
        parts = urlsplit(self.endpoint or "https:")
        return parts.port or {"http": 80, "https": 443}[parts.scheme]
