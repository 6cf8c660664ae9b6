"""Bytes on their way to a visitor: few in memory, many in a temporary file.

So neither the size of the data nor a slow visitor occupies memory.
"""

import logging
from io import BytesIO
from tempfile import TemporaryFile, gettempdir
from typing import BinaryIO

from cubicweb_hasite.storages.errors import StorageUnavailable

log = logging.getLogger(__name__)

#: how many bytes are kept in memory
IN_MEMORY = 2**20
#: how many of the others are handed on at once
SLICE = 2**18


class Spool:
    """Takes bytes, of which it is known how many there will be.

    :param length: how many, in bytes
    :raises StorageUnavailable: there is no space for a temporary file.
    """

    def __init__(self, length: int):
        self._file: BinaryIO = BytesIO() if length <= IN_MEMORY else _temporary()

    def write(self, block: bytes | memoryview) -> None:
        """Take bytes.

        :raises StorageUnavailable: there is no space for a temporary file.
        """
        try:
            self._file.write(block)
        except OSError as error:
            raise _no_space(error) from error

    def tell(self) -> int:
        """Return how many bytes were taken."""
        return self._file.tell()

    def end(self) -> bytes | BinaryIO:
        """Return all bytes: few as such, many as a file that is removed when it is closed.

        :raises StorageUnavailable: there is no space for a temporary file.
        """
        if isinstance(self._file, BytesIO):
            return self._file.getvalue()
        try:
            self._file.seek(0)
        except OSError as error:  # of the last bytes that were written
            raise _no_space(error) from error
        return self._file


def _temporary() -> BinaryIO:
    try:
        return TemporaryFile()
    except OSError as error:
        raise _no_space(error) from error


def _no_space(error: OSError) -> StorageUnavailable:
    reason = f"no temporary file can be written in {gettempdir()}: {error}"
    log.error("%s", reason)
    return StorageUnavailable(reason)


def spooled(body: bytes) -> bytes | BinaryIO:
    """Return bytes as :meth:`Spool.end` does."""
    if len(body) <= IN_MEMORY:
        return body
    spool = Spool(len(body))
    spool.write(body)
    return spool.end()
