"""Where data is kept: in the bucket of S3 that the options name, never on a host's own disk."""

import logging
from collections.abc import Iterable, Iterator

from cubicweb.server.repository import Repository
from cubicweb.server.sources.storages import set_attribute_storage
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite import options
from cubicweb_hasite.__pkginfo__ import documentation
from cubicweb_hasite.storages import check, guard
from cubicweb_hasite.storages.errors import StorageUnavailable

log = logging.getLogger(__name__)

#: how long names of objects are at most, in bytes
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_MAX_KEY = 1024


def keep(repo: Repository, *, maintenance: bool) -> None:
    """Keep data in the bucket that the options name, if they name one.

    An application's own storage (`set_attribute_storage`), set later, takes its place.

    :param maintenance: whether the instance may lack yet what an upgrade is to add
    :raises ConfigurationError: the instance has not what the options need.
    """
    config = repo.config
    bucket = config["hasite-s3-bucket"]
    if not bucket:
        return
    lacks = list(_lacks(repo, config["hasite-s3-attributes"]))
    if lacks and not maintenance:
        raise options.invalid(*lacks[0])
    if lacks:
        log.warning("nothing is kept in the bucket %s yet: %s", bucket, lacks)
        return
    from cubicweb_hasite.storages.prefixed import PrefixedStorage

    storage = PrefixedStorage(bucket, config["hasite-s3-prefix"])
    for name in config["hasite-s3-attributes"]:
        etype, _dot, attribute = name.partition(".")
        set_attribute_storage(repo, etype, attribute, storage)


def _lacks(repo: Repository, attributes: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield which options need what the instance has not, their value, and what to give."""
    if "s3storage" not in repo.config.cubes():
        bucket = repo.config["hasite-s3-bucket"]
        yield "hasite-s3-bucket", bucket, "the instance the cube s3storage, or no bucket"
    for name in attributes:
        etype, _dot, attribute = name.partition(".")
        if not (repo.schema.has_entity(etype) and attribute in _of_bytes(repo, etype)):
            yield "hasite-s3-attributes", name, "attributes of type Bytes, such as File.data"


def _of_bytes(repo: Repository, etype: str) -> set[str]:
    definitions = repo.schema.entity_schema_for(etype).attribute_definitions()
    return {rschema.type for rschema, target in definitions if target.type == "Bytes"}


def problems(repo: Repository, bucket: str, attributes: Iterable[str]) -> Iterator[str]:
    """Yield what is wrong with where data is kept: outside of the database and of a bucket.

    :param attributes: those whose data is to be in the bucket, such as `File.data`
    """
    kept = {f"{etype}.{attribute}": storage for etype, attribute, storage in guard.storages(repo)}
    for name, storage in kept.items():
        if not guard.is_bucket(storage):
            kind = type(storage).__name__
            yield f"{name} is kept on the disk of this host, or elsewhere, by {kind}"
    for name in attributes:
        storage = kept.get(name)
        if getattr(storage, "bucket", None) != bucket:
            yield f"{name} is not kept in the bucket {bucket}"
        elif count := _rows_with_data(repo, name):
            yield (
                f"{name} of {count} entities is in the database, from before it was kept in the "
                f"bucket: see {documentation}/storages.md#choose-a-bucket"
            )
    for storage in {id(storage): storage for storage in kept.values()}.values():
        try:
            check.look(storage, None)
        except StorageUnavailable as error:
            yield str(error)


def _rows_with_data(repo: Repository, name: str) -> int:
    """Return how many rows have data in the place of the name of an object."""
    etype, _dot, attribute = name.partition(".")
    column = f"{SQL_PREFIX}{attribute}"
    with repo.internal_cnx() as cnx:
        sql = f"SELECT COUNT(*) FROM {SQL_PREFIX}{etype} WHERE octet_length({column}) > {_MAX_KEY}"
        return cnx.system_sql(sql).fetchone()[0]
