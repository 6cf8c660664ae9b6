"""Buckets of S3 (cubicweb-s3storage), which answer within a deadline, or are taken to be down.

A bucket that is silent would occupy all threads of an instance, each until the deadline. So after
a failure requests fail at once, except for one each second, which tries.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from cubicweb import Binary
from cubicweb.server.session import Connection
from cubicweb_s3storage.storages import S3Storage

from cubicweb_hasite.storages.errors import StorageUnavailable, explained, title
from cubicweb_hasite.storages.spool import Spool

log = logging.getLogger(__name__)

#: how long nothing is asked of a bucket that has failed, in seconds
PAUSE = 1.0
#: how many bytes a bucket has to give each second, beyond what it gives until the deadline
_SLOWEST = 2**20
_BLOCK = 2**17
#: an object that need not exist
_NO_KEY = "hasite-check"
#: the errors of S3 by which it says that it looked
_LOOKED = ("NoSuchKey", "NoSuchVersion", "InvalidRange")

_AnySink = TypeVar("_AnySink", Binary, Spool)


class _Breaker:
    """Remembers that a bucket has failed, and lets one request after the other try.

    Its methods are handlers of botocore's events:
    https://boto3.amazonaws.com/v1/documentation/api/latest/guide/events.html
    """

    def __init__(self, storage: S3Storage, deadline: float):
        self._storage = storage
        self.deadline = deadline
        self._lock = threading.Lock()
        self._failed = False
        self._failure = ""
        self._closed_until = 0.0

    def before_call(self, **_event: object) -> None:
        """Refuse a request for a bucket that is down.

        :raises StorageUnavailable: it failed a moment ago.
        """
        with self._lock:
            now = time.monotonic()
            if self._failed:
                if now < self._closed_until:
                    why = f"does not answer ({self._failure})"
                    raise StorageUnavailable(f"{title(self._storage)} {why}")
                # this one tries, the others do not wait for it
                self._closed_until = now + self.deadline

    def after_call(self, **_event: object) -> None:
        """Note that the bucket answers, were it with an error."""
        if self._failed:
            log.warning("%s answers again", title(self._storage))
        self._failed = False

    def after_error(self, exception: Exception | None = None, **_event: object) -> None:
        """Note that the bucket does not answer."""
        if isinstance(exception, StorageUnavailable):
            return  # of this class
        with self._lock:
            if not self._failed:
                log.error("%s does not answer: %s", title(self._storage), exception)
            self._failed, self._failure = True, type(exception).__name__
            self._closed_until = time.monotonic() + PAUSE


def limit(storage: S3Storage, deadline: float) -> None:
    """Let a storage answer within a deadline.

    Its client is made again, by the storage itself (`S3Storage._s3_client`), with boto3's timeouts
    as defaults. A storage that gives timeouts of its own keeps them.

    :param deadline: in seconds
    """
    session = botocore.session.get_session()
    session.set_default_client_config(
        Config(
            connect_timeout=deadline / 2,
            read_timeout=deadline / 2,
            retries={"total_max_attempts": 1},
        )
    )
    usual = boto3.DEFAULT_SESSION
    boto3.setup_default_session(botocore_session=session)
    try:
        storage.s3cnx = storage._s3_client()
    finally:
        boto3.DEFAULT_SESSION = usual
    breaker = storage.hasite_breaker = _Breaker(storage, deadline)
    events = storage.s3cnx.meta.events
    events.register("before-call.s3", breaker.before_call)
    events.register("after-call.s3", breaker.after_call)
    events.register("after-call-error.s3", breaker.after_error)
    if type(storage).download is S3Storage.download:
        storage.download = lambda key, **named: _download(storage, Key=key, **named)


def _download(storage: S3Storage, **named: Any) -> Binary:
    """Return what `S3Storage.download` does."""
    data = Binary()
    _fetch(storage, lambda _length: data, **named)
    data.seek(0)
    return data


def _fetch(storage: S3Storage, new_sink: Callable[[int], _AnySink], **named: Any) -> _AnySink:
    """Fetch the bytes of an object, or of a part of it; return what they were written to.

    :param new_sink: is told how many they are
    :param named: arguments of `get_object`
    """
    started = time.monotonic()
    found = storage.s3cnx.get_object(Bucket=storage.bucket, **named)
    length = found["ContentLength"]
    until = started + storage.hasite_breaker.deadline + length / _SLOWEST
    sink = new_sink(length)
    try:
        with found["Body"] as stream:
            while sink.tell() < length:
                block = stream.read1(_BLOCK)
                if not block or time.monotonic() > until:
                    raise TimeoutError(f"{sink.tell()} of {length} bytes in time")
                sink.write(block)
    except Exception as error:
        storage.hasite_breaker.after_error(error)
        raise
    return sink


def gives_parts(storage: object) -> bool:
    """Return whether :func:`size` and :func:`part` can read of a storage.

    Not if an application stores the bytes in another form, such as encrypted.
    """
    return isinstance(storage, S3Storage) and all(
        getattr(type(storage), name) is getattr(S3Storage, name)
        for name in ("callback", "get_s3_object", "download")
    )


def size(storage: S3Storage, cnx: Connection, key: str) -> int:
    """Return how many bytes an object has.

    :raises Exception: of boto3, for :func:`explained`
    """
    # not HEAD, whose errors do not say whether the bucket or the object is missing
    named = {"Bucket": storage.bucket, **_named(storage, cnx, key)}
    try:
        found = storage.s3cnx.get_object(Range="bytes=0-0", **named)
    except storage.s3cnx.exceptions.ClientError as error:
        if error.response["Error"]["Code"] == "InvalidRange":  # an object of no bytes
            return 0
        raise
    found["Body"].read()
    return int(found["ContentRange"].rpartition("/")[2])


def whole(storage: S3Storage, cnx: Connection, key: str) -> tuple[int, bytes | BinaryIO]:
    """Return how many bytes an object has, and all of them, as :meth:`Spool.end` does.

    :raises Exception: of boto3, for :func:`explained`
    """
    spool = _fetch(storage, Spool, **_named(storage, cnx, key))
    return spool.tell(), spool.end()


def part(storage: S3Storage, cnx: Connection, key: str, start: int, stop: int) -> bytes | BinaryIO:
    """Return bytes of an object from `start` up to and not including `stop`; see :func:`whole`."""
    asked = f"bytes={start}-{stop - 1}"
    return _fetch(storage, Spool, Range=asked, **_named(storage, cnx, key)).end()


def _named(storage: S3Storage, cnx: Connection, key: str) -> dict[str, str]:
    """Return the arguments that name an object, as `S3Storage.get_s3_object` does."""
    key, version = storage.parse_key(key)
    if cnx.repo.config["s3-activate-object-versioning"] and version is not None:
        return {"Key": key, "VersionId": version}
    return {"Key": key}


def check(storage: S3Storage, key: str | None) -> None:
    """Check that a bucket answers.

    :param key: of an object that should be there. Without the right to list the bucket S3 refuses
        what is not there, as it refuses what may not be read.
    :raises StorageUnavailable: it does not.
    """
    with explained(storage):
        key, _version = storage.parse_key(key or _NO_KEY)
        try:
            found = storage.s3cnx.get_object(Bucket=storage.bucket, Key=key, Range="bytes=0-0")
        except storage.s3cnx.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in _LOOKED:
                raise
        else:
            found["Body"].read()
