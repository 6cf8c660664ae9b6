"""Why bytes cannot be read or written: their storage is out of order, or they are gone."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cubicweb import _
from cubicweb.server.sources.storages import Storage

from cubicweb_hasite.__pkginfo__ import documentation

log = logging.getLogger(__name__)

#: what visitors are told
UNAVAILABLE = _("The storage of files cannot answer at the moment. Please try again.")

# errors of S3 that say that one object is not there; not that its bucket is not (NoSuchBucket)
_NO_OBJECT = ("NoSuchKey", "NoSuchVersion")
#: how many messages are remembered as told
_MAX_TOLD = 10_000
_told: set[str] = set()


class StorageUnavailable(Exception):
    """A storage is out of order: the same request may succeed later."""


class DataMissing(Exception):
    """The file or the object that the database names is not there."""


@contextmanager
def explained(storage: Storage) -> Iterator[None]:
    """Explain the errors of files, of S3 and of the network on the way to it.

    :raises StorageUnavailable: the storage is out of order.
    :raises DataMissing: the file or the object is not there.
    """
    try:
        yield
    except (StorageUnavailable, DataMissing):
        raise
    except Exception as error:
        if _is_of_s3(error):  # of which some are OSErrors too
            raise _of_s3(storage, error) from error
        if isinstance(error, FileNotFoundError):
            # if its directory is missing too, the disk may not be mounted
            name = os.fsdecode(error.filename or b"")
            if Path(name).parent.is_dir():
                raise DataMissing(name) from error
        if isinstance(error, OSError):
            raise StorageUnavailable(f"{title(storage)}: {error}") from error
        raise


def _of_s3(storage: Storage, error: Exception) -> Exception:
    response = getattr(error, "response", None) or {}  # of ClientError
    code = response.get("Error", {}).get("Code", "")
    if code in _NO_OBJECT:
        return DataMissing(title(storage))
    why = f"refuses ({code})" if code else f"does not answer ({type(error).__name__})"
    return StorageUnavailable(f"{title(storage)} {why}")


def _is_of_s3(error: Exception) -> bool:
    """Return whether an error is of boto3 or of the HTTP below it, where they are installed."""
    known = []
    if "botocore.exceptions" in sys.modules:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        known = [BotoCoreError, ClientError, HTTPError]
    return isinstance(error, tuple(known))


def title(storage: Storage) -> str:
    """Return what operators call a storage, without a secret."""
    if bucket := getattr(storage, "bucket", None):
        return f"the bucket {bucket}"
    if directory := getattr(storage, "default_directory", None):
        return f"the directory {directory}"
    return f"the storage {type(storage).__name__}"


def tell_missing(what: str) -> None:
    """Log that bytes are missing, once for each file or object."""
    _tell_once(f"data is missing: {what} is not there, although the database names it")


def tell_unmoved(where: str) -> None:
    """Log once that a row has data in the place of the name that a storage would give it."""
    _tell_once(
        f"data is in the database from before {where} was set for it, and is not found: see "
        f"{documentation}/storages.md#choose-a-bucket"
    )


def _tell_once(text: str) -> None:
    if text not in _told:
        if len(_told) >= _MAX_TOLD:
            _told.clear()
        _told.add(text)
        log.error("%s", text)
