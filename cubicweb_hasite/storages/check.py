"""Whether the storages work: looked at in the background, since a disk or S3 may hang."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cubicweb.server.repository import Repository
from cubicweb.server.sources.storages import Storage
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite.storages import guard
from cubicweb_hasite.storages.errors import StorageUnavailable, explained, title

log = logging.getLogger(__name__)

#: how often the storages are looked at, in seconds
INTERVAL = 5.0
#: and one that is out of order
_AGAIN = 1.0
# of the repository: what was found, by the title of the storage
_FOUND = "_hasite_storages"


@dataclass
class Found:
    """What was found of a storage."""

    #: why it is out of order, empty if it works
    reason: str
    #: when it was looked at last, by the monotonic clock
    looked: float


def start(repo: Repository, query: Callable[[Repository, str], list[tuple[Any, ...]]]) -> None:
    """Look at the storages every few seconds, each in a thread, as long as the process runs.

    :param query: asks the database, within a deadline
    """
    found: dict[str, Found] = vars(repo).setdefault(_FOUND, {})
    for etype, attribute, storage in guard.storages(repo):
        if title(storage) in found:
            continue
        unknown = f"{title(storage)} has not answered yet"
        state = found[title(storage)] = Found(unknown, time.monotonic())
        # enough to see a key, or data from before the storage was set, which may be large
        column = f"{SQL_PREFIX}{attribute}"
        sql = (
            f"SELECT substr({column}, 1, {guard.MAX_KEY + 1}) FROM {SQL_PREFIX}{etype} "
            f"WHERE {column} IS NOT NULL LIMIT 1"
        )
        threading.Thread(
            target=_watch,
            args=(repo, storage, state, lambda sql=sql: query(repo, sql)),
            name="hasite-storage",
            daemon=True,
        ).start()


def _watch(
    repo: Repository, storage: Storage, state: Found, ask: Callable[[], list[tuple[Any, ...]]]
) -> None:
    key = None
    failed = False
    while True:
        try:
            if rows := ask():
                stored = repo.system_source.binary_to_str(rows[0][0])
                key = guard.key_of(storage, os.fsencode(stored))
        except Exception:  # the monitors of the database tell
            log.debug("no object of %s is known", title(storage))
        reason = ""
        try:
            look(storage, key)
        except Exception as error:
            reason = str(error) or type(error).__name__
        if bool(reason) != failed:
            failed = bool(reason)
            log.log(
                logging.ERROR if reason else logging.WARNING,
                "%s",
                reason or f"{title(storage)} works again",
            )
        state.reason, state.looked = reason, time.monotonic()
        time.sleep(_AGAIN if reason else INTERVAL)


def look(storage: Storage, key: str | None) -> None:
    """Check that a storage works.

    :param key: what the database has in the place of some bytes, None if it has none
    :raises StorageUnavailable: it does not.
    """
    if guard.is_bucket(storage):
        from cubicweb_hasite.storages import bucket

        bucket.check(storage, key)
    elif directory := getattr(storage, "default_directory", None):
        with explained(storage):
            if not Path(directory).is_dir():
                raise StorageUnavailable(f"{title(storage)} is not there")
            if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                raise StorageUnavailable(f"{title(storage)} may not be read and written")


def failures(repo: Repository, deadline: float) -> Iterator[str]:
    """Yield why storages are out of order, of those that are looked at. Never waits.

    :param deadline: how long a storage may take to answer, in seconds
    """
    for name, state in list(vars(repo).get(_FOUND, {}).items()):
        silent = time.monotonic() - state.looked
        if state.reason:
            yield state.reason
        elif silent > INTERVAL + 2 * deadline:
            yield f"{name} has not answered for {silent:.0f} seconds"


def names(repo: Repository) -> list[str]:
    """Return the titles of the storages that are looked at."""
    return list(vars(repo).get(_FOUND, {}))
