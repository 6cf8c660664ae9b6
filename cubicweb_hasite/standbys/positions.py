"""Positions in the log of PostgreSQL (WAL), and the cookie that holds that of a visitor.

A standby holds a commit if it has replayed the log up to the position after it, on the same
timeline: a promotion begins a new one, on which the same position may mean another change.
"""

import re
import time
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple

#: the cookie, and how long it is kept, in seconds
COOKIE = "hasite_position"
COOKIE_AGE = 60

#: SQL of the origin of what a primary writes: identifier of the cluster, `/`, timeline
ORIGIN = """
    SELECT system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
    FROM pg_control_system()
"""
#: SQL of the position up to which a primary has written, in bytes. At the beginning of a page, or
#: of a segment, PostgreSQL counts the header of the page, which no standby replays before there is
#: a record after it (XLogBytePosToRecPtr, SizeOfXLogShortPHD and SizeOfXLogLongPHD).
WRITTEN = """
    SELECT position - CASE
        WHEN position % pg_size_bytes(current_setting('wal_segment_size')) = 40 THEN 40
        WHEN position % current_setting('wal_block_size')::bigint = 24 THEN 24
        ELSE 0
    END
    FROM (
        SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS position OFFSET 0
    ) AS inserted
"""
#: SQL that returns, on a primary, what :func:`committed` reads
POSITION = f"SELECT ({WRITTEN}), ({ORIGIN})"

_VALUE = re.compile(r"([0-9a-f]{1,8})-([0-9a-f]{1,16})-([0-9]{1,11}\.[0-9]{1,6})", re.ASCII)


class Position(NamedTuple):
    """Up to where a visitor has seen the database."""

    timeline: int
    #: in bytes from the beginning of the log
    lsn: int
    #: by the clock of the process, in seconds since 1970: what was committed until then is before
    #: the position
    time: float

    def cookie(self) -> str:
        """Return the value of the cookie."""
        return f"{self.timeline:x}-{self.lsn:x}-{self.time:.6f}"


#: a position that no standby reaches: its visitor is served by the primary
UNREACHABLE = Position(0, 2**64 - 1, 0.0)


def timeline(origin: str) -> int:
    """Return the timeline of an :data:`ORIGIN`."""
    return int(origin.rpartition("/")[2], 16)


def committed(row: tuple[int, str], asked: float) -> Position:
    """Return a position of the primary.

    :param row: what :data:`POSITION` has returned
    :param asked: when it was asked, in seconds since 1970
    """
    return Position(timeline(row[1]), row[0], asked)


def of_visitor(cookies: str) -> Position | None:
    """Return the position in the header `Cookie`, None if there is none.

    It needs no signature: who forges one is served by the primary, or is shown what is too old
    for him alone. One that cannot be read is beyond all standbys.
    """
    if COOKIE not in cookies:
        return None
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return UNREACHABLE
    match = _VALUE.fullmatch(morsel.value) if morsel is not None else None
    if match is None:
        return UNREACHABLE
    return Position(int(match[1], 16), int(match[2], 16), min(float(match[3]), time.time()))
