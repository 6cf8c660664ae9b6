"""Read the files of a storage in a directory (BytesFileSystemStorage)."""

import os
from pathlib import Path
from typing import BinaryIO

from cubicweb.server.session import Connection
from cubicweb.server.sources.storages import Storage

from cubicweb_hasite.storages import spool


def size(_storage: Storage, _cnx: Connection, path: str) -> int:
    """Return how many bytes a file has."""
    return Path(path).stat().st_size


def whole(_storage: Storage, _cnx: Connection, path: str) -> tuple[int, bytes | BinaryIO]:
    """Return how many bytes a file has, and all of them: few as such, many as the open file."""
    file = open(path, "rb")  # noqa: SIM115
    length = os.fstat(file.fileno()).st_size
    if length > spool.IN_MEMORY:
        return length, file
    with file:
        return length, file.read()


def part(
    _storage: Storage, _cnx: Connection, path: str, start: int, stop: int
) -> bytes | BinaryIO:
    """Return bytes of a file from `start` up to and not including `stop`."""
    sink = spool.Spool(stop - start)
    with open(path, "rb") as file:
        file.seek(start)
        # not the file itself, of which servers such as uWSGI would send all
        while block := file.read(min(spool.SLICE, stop - start - sink.tell())):
            sink.write(block)
    return sink.end()
