"""Let the storages of an instance say what is wrong with them, within a deadline."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, BinaryIO

from cubicweb import Binary
from cubicweb.server.repository import Repository
from cubicweb.server.session import Connection
from cubicweb.server.sources.native import NativeSQLSource
from cubicweb.server.sources.storages import (
    BytesFileSystemStorage,
    Storage,
    set_attribute_storage,
)

from cubicweb_hasite.storages import files
from cubicweb_hasite.storages.errors import (
    DataMissing,
    StorageUnavailable,
    explained,
    tell_missing,
    tell_unmoved,
    title,
)

_GUARDED = "_hasite_guarded"
#: how long a key of S3 or a path is at most, in bytes
MAX_KEY = 4096


def is_bucket(storage: Storage) -> bool:
    """Return whether a storage is a bucket of S3, of cubicweb-s3storage."""
    module = sys.modules.get("cubicweb_s3storage.storages")
    return module is not None and isinstance(storage, module.S3Storage)


def storages(repo: Repository) -> Iterator[tuple[str, str, Storage]]:
    """Yield the attributes of bytes that the database does not hold: type, attribute, storage."""
    for etype, attributes in sorted(repo.system_source._storages.items()):
        for attribute, storage in sorted(attributes.items()):
            yield etype, attribute, storage


def guard(repo: Repository, deadline: float) -> None:
    """Make the storages fail within a deadline, and say so by :class:`StorageUnavailable`.

    The storages must be set (`set_attribute_storage`). Called again it guards those that are new.

    :param deadline: in seconds
    """
    for etype, attribute, storage in list(storages(repo)):
        if _GUARDED in vars(storage):
            set_attribute_storage(repo, etype, attribute, storage)
            continue
        vars(storage)[_GUARDED] = True
        if is_bucket(storage):
            from cubicweb_hasite.storages import bucket

            bucket.limit(storage, deadline)
        for name in ("entity_added", "entity_updated", "entity_deleted"):
            setattr(storage, name, _explaining(storage, getattr(storage, name)))
        if storage.is_source_callback:
            storage.callback = _reading(storage)
        set_attribute_storage(repo, etype, attribute, storage)  # it remembers the callback


def _explaining(storage: Storage, stock: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(stock)
    def explaining(*args: Any) -> Any:
        with explained(storage):
            return stock(*args)

    return explaining


def _reading(storage: Storage) -> Callable[..., Any]:
    """Return what CubicWeb calls for bytes that RQL asks for.

    Those of a file or an object that is gone are None, as CubicWeb has it, so that an edit can
    give new ones. Those that cannot be read are an error: None would mean that there are none.
    """

    def callback(source: NativeSQLSource, cnx: Connection, value: Any) -> Binary | None:
        try:
            return read(storage, source, cnx, value)
        except DataMissing:
            return None

    return callback


def read(storage: Storage, source: NativeSQLSource, cnx: Connection, value: Any) -> Binary:
    """Return the bytes that a storage holds.

    :param value: what the database has in their place
    :raises StorageUnavailable: the storage is out of order.
    :raises DataMissing: the file or the object is not there; it is logged once.
    """
    stock = type(storage).callback
    with _telling(storage, cnx, value) as key:
        if stock is BytesFileSystemStorage.callback:
            return Binary.from_file(key)
        if is_bucket(storage) and stock is _bucket_type().callback:
            return _object(storage, cnx, key)
        stored = stock(storage, source, cnx, value)
    if stored is None:
        raise StorageUnavailable(f"{title(storage)} cannot be read")
    return stored


def gives_parts(storage: Storage) -> bool:
    """Return whether parts of the bytes of a storage can be read, and their length alone.

    Not if an application stores the bytes in another form, such as encrypted.
    """
    if type(storage).callback is BytesFileSystemStorage.callback:
        return True
    if is_bucket(storage) and _GUARDED in vars(storage):
        from cubicweb_hasite.storages import bucket

        return bucket.gives_parts(storage)
    return False


def size(storage: Storage, cnx: Connection, value: Any) -> int:
    """Return how many bytes a storage holds.

    :param value: what the database has in their place
    :raises StorageUnavailable: as :func:`read`, which has the other errors too.
    """
    with _telling(storage, cnx, value) as key:
        return _reader(storage).size(storage, cnx, key)


def whole(storage: Storage, cnx: Connection, value: Any) -> tuple[int, bytes | BinaryIO]:
    """Return how many bytes a storage holds, and all of them; see :func:`size`.

    Few are in memory, many a file that is open at their beginning.
    """
    with _telling(storage, cnx, value) as key:
        return _reader(storage).whole(storage, cnx, key)


def part(storage: Storage, cnx: Connection, value: Any, start: int, stop: int) -> bytes | BinaryIO:
    """Return bytes from `start` up to and not including `stop`; see :func:`whole`."""
    with _telling(storage, cnx, value) as key:
        return _reader(storage).part(storage, cnx, key, start, stop)


def _reader(storage: Storage) -> Any:
    """Return the module that reads of a storage of which parts can be read."""
    if is_bucket(storage):
        from cubicweb_hasite.storages import bucket

        return bucket
    return files


@contextmanager
def _telling(storage: Storage, cnx: Connection, value: Any) -> Iterator[str]:
    """Yield the path or the key that a value is; explain errors, and log once what is missing."""
    stored = os.fsencode(cnx.repo.system_source.binary_to_str(value))
    key = key_of(storage, stored)
    try:
        with explained(storage):
            if key is None:
                raise DataMissing(title(storage))
            yield key
    except DataMissing:
        if key is None:
            tell_unmoved(title(storage))
        else:
            tell_missing(f"{key} of {title(storage)}")
        raise


def key_of(storage: Storage, stored: bytes) -> str | None:
    """Return the path or the key that the database has in the place of bytes.

    None if it is data, from before the storage was set.
    """
    if len(stored) > MAX_KEY or b"\0" in stored:
        return None
    try:
        return stored.decode() if is_bucket(storage) else os.fsdecode(stored)
    except UnicodeDecodeError:
        return None


def _bucket_type() -> Any:
    return sys.modules["cubicweb_s3storage.storages"].S3Storage


def _object(storage: Any, cnx: Connection, key: str) -> Binary:
    """Return what `S3Storage.callback` does, which hides why an object cannot be read."""
    if cnx.repo.config["s3-transaction-suffix-key"] and cnx.commit_state == "precommit":
        try:
            with explained(storage):
                return storage.get_s3_object(cnx, storage.suffixed_key(key))
        except DataMissing:
            pass  # it is not edited by this transaction
    return storage.get_s3_object(cnx, key)
