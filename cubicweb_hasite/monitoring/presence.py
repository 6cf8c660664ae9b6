"""What each instance tells of itself through the database, so that one of them can show all.

The connection of the probes has an SQL comment in front of each query. PostgreSQL shows the last
query of each connection in `pg_stat_activity`, to the same role at least, as long as the
connection is open: who is gone is not shown. Nothing is written to the database, so a standby
serves as well.

The comment must be shorter than `track_activity_query_size`, by default 1024 bytes.
"""

import json
import logging
import os
import re
import threading
import time
from dataclasses import asdict, dataclass, fields

from cubicweb.server.repository import Repository

from cubicweb_hasite.__pkginfo__ import version
from cubicweb_hasite.caches import purge
from cubicweb_hasite.monitoring import answers, polls, probes
from cubicweb_hasite.operations.draining import is_draining
from cubicweb_hasite.storages import check

log = logging.getLogger(__name__)

#: how often an instance tells of itself, in seconds
INTERVAL = 5.0
#: what the comment begins with
MARK = "/* hasite "

_MAX_COMMENT = 900
_MAX_NUMBER = 2**32
#: how many characters of a text are told
MAX_TEXT = 150
_COMMENT = re.compile(re.escape(MARK) + r"(\{[^/]*\}) \*/")
# of the repository: what was found at the last look, values of `Told`
_FOUND = "_hasite_found"
_STARTED = time.monotonic()


@dataclass(frozen=True)
class Told:
    """What an instance tells of itself."""

    #: as monitor_hostname answers
    name: str = ""
    #: that of visitors as far as the instance knows it, 0 if it does not
    port: int = 0
    pid: int = 0
    #: version of cubicweb-hasite that runs
    hasite: str = ""
    #: version of CubicWeb that runs
    cubicweb: str = ""
    #: how long it runs, in seconds
    uptime: int = 0
    #: connections of the pool in use
    in_use: int = 0
    #: size of the pool; 0: unlimited
    maximum: int = 0
    #: how many purges wait for caches that are down
    purges: int = 0
    draining: bool = False
    #: whether the versions in the database are those installed: `same`, `accepted` or `differs`
    schema: str = ""
    #: why it is not ready, but for draining
    reasons: str = ""
    #: why it is degraded, though in service
    degraded: str = ""

    @property
    def versions(self) -> str:
        """The versions that run, in one text."""
        return f"cubicweb {self.cubicweb}, hasite {self.hasite}"


def start(repo: Repository) -> None:
    """Tell of this instance every few seconds as long as the process runs."""
    if repo.system_source.dbdriver == "postgres":
        polls.precede(repo, lambda: comment(repo))
        threading.Thread(target=_tell, args=(repo,), name="hasite-presence", daemon=True).start()


def _tell(repo: Repository) -> None:
    while True:
        look(repo)
        time.sleep(INTERVAL)


def look(repo: Repository) -> None:
    """Find what has to be asked of the database, to tell it from the next query on."""
    readings = answers.readiness(repo)
    versions = readings.get("monitor_version")
    schema = ""
    if versions is not None and versions.values:
        same = versions.values["installed"] == versions.values["database"]
        schema = "same" if same else "accepted" if versions.ok else "differs"
    failures = [
        reading for name, reading in readings.items() if name != "draining" and not reading.ok
    ]
    reasons = answers.summary(failures).removeprefix("ServiceKO : ")
    vars(repo)[_FOUND] = {"schema": schema, "reasons": reasons[:MAX_TEXT]}


def tell(repo: Repository) -> Told:
    """Return what this instance tells of itself now."""
    config = repo.config
    pool = probes.pool(repo).values
    failures = check.failures(repo, config["hasite-storage-deadline"])
    return Told(
        name=probes.hostname(repo).text[:MAX_TEXT],
        port=config.get("port") or 0,
        pid=os.getpid(),
        hasite=version,
        cubicweb=str(config.cubicweb_version()),
        uptime=int(time.monotonic() - _STARTED),
        in_use=pool.get("in_use", 0),
        maximum=pool.get("maximum", 0),
        purges=sum(purger.queued for purger in purge.purgers(config) if purger.down),
        draining=is_draining(config),
        degraded="; ".join(failures)[:MAX_TEXT],
        **vars(repo).get(_FOUND, {}),
    )


def comment(repo: Repository) -> str:
    """Return what this instance tells of itself, as an SQL comment. Never raises."""
    try:
        return write(tell(repo))
    except Exception:  # a monitor is to answer all the same
        log.exception("this instance cannot tell of itself")
        return ""


def write(told: Told) -> str:
    """Return an SQL comment, ASCII, that :func:`read` understands."""
    values = asdict(told)
    for name in ("reasons", "degraded", "name"):  # they may be of letters that take six bytes each
        while len(text := json.dumps(values).replace("/", r"\u002f")) > _MAX_COMMENT:
            if not values[name]:
                break
            values[name] = values[name][: len(values[name]) // 2]
    return f"{MARK}{text} */ "


def read(query: str) -> Told | None:
    """Return what an instance tells of itself by a query, None if it tells nothing.

    Members that are not known, or of another type, are ignored: another version has written them.
    """
    match = _COMMENT.match(query)
    if match is None:
        return None
    try:
        values = json.loads(match[1])
    except (ValueError, RecursionError):
        return None
    known = {}
    for field in fields(Told):
        value = values.get(field.name)
        if type(value) is not type(field.default):
            continue
        if isinstance(value, str):
            value = "".join(char if char.isprintable() else "?" for char in value[:MAX_TEXT])
        elif isinstance(value, int) and not 0 <= value <= _MAX_NUMBER:
            continue
        known[field.name] = value
    return Told(**known)
