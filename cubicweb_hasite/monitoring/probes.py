"""What the monitors measure: each probe measures one aspect of an instance's health.

A probe takes the repository and returns a :class:`Reading`. Probes that ask the database use
their own connection and thread (:mod:`cubicweb_hasite.monitoring.polls`), so that they
answer when the database does not, and when the pool is exhausted. They only read.

This module uses the repository, not the web.
"""

import logging
import os
import runpy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import distribution
from importlib.util import find_spec
from socket import gethostname
from typing import Any

from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.server.repository import Repository
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite import versions
from cubicweb_hasite.monitoring.polls import DatabaseUnavailable, query
from cubicweb_hasite.standbys import sampler
from cubicweb_hasite.storages import check

log = logging.getLogger(__name__)

# of the repository: the last failure of each probe that was logged
_LOGGED = "_hasite_logged"


@dataclass(frozen=True)
class Reading:
    """What a probe found."""

    ok: bool
    text: str
    #: the values in the text, for programs
    values: Mapping[str, Any] = field(default_factory=dict)
    #: False if the database could not be asked
    checked: bool = True
    #: whether something is out of order that is no reason to take the instance out of service
    degraded: bool = False
    #: whether the database cannot be written to, while pages are read from a standby
    reads_only: bool = False

    @property
    def status(self) -> int:
        """HTTP status for a monitoring system or a load balancer."""
        return 200 if self.ok else 503


def read(name: str, repo: Repository) -> Reading:
    """Return the reading of a probe. Never raises.

    :param name: that of a monitor, `free_pool` or `storage`
    """
    try:
        reading = _tell_of_standbys(repo, name, (_OTHERS | PROBES)[name](repo))
    except DatabaseUnavailable as exc:  # which is already logged
        reading = Reading(False, f"ServiceKO : {exc}", checked=False)
        return _tell_of_standbys(repo, name, reading)
    except Exception:
        reading = Reading(False, "ServiceKO : the monitor failed, see the log of the instance")
        _log(repo, name, reading, exc_info=True)
    else:
        _log(repo, name, reading)
    return reading


def _tell_of_standbys(repo: Repository, name: str, reading: Reading) -> Reading:
    """Let the truth about writing say that pages are served all the same, if they are."""
    found = sampler.of(repo)
    if name != "monitor_db" or reading.ok or found is None or not found.serves:
        return reading
    text = f"{reading.text}; pages are read from a standby"
    return replace(reading, text=text, reads_only=True)


def _log(repo: Repository, name: str, reading: Reading, *, exc_info: bool = False) -> None:
    """Log the result of a probe once per change, not once per poll."""
    logged = vars(repo).setdefault(_LOGGED, {})
    failure = None if reading.ok else reading.text
    if logged.get(name) != failure:
        level = logging.WARNING if reading.ok else logging.ERROR
        log.log(level, "%s: %s", name, reading.text, exc_info=exc_info)
        logged[name] = failure


def pool(repo: Repository) -> Reading:
    """Measure how much of the pool of database connections is in use, in percent."""
    cnxsets = repo.cnxsets
    free = cnxsets.qsize()
    if free is None:
        return Reading(True, "no pool : each request opens a connection")
    size, maximum = cnxsets.size(), cnxsets.max_size
    in_use = size - free
    values = {"in_use": in_use, "size": size, "maximum": maximum}
    if not maximum:
        return Reading(True, f"unlimited pool : {in_use} connections in use", values)
    return Reading(True, f"{in_use * 100 / maximum:.1f}%", values)


def free_pool(repo: Repository) -> Reading:
    """Check that the pool is not exhausted: visitors would wait for a connection."""
    reading = pool(repo)
    maximum = reading.values.get("maximum")
    if maximum and reading.values["in_use"] >= maximum:
        text = f"ServiceKO : pool exhausted, {maximum} of {maximum} connections in use"
        return Reading(False, text, reading.values)
    return reading


def db(repo: Repository) -> Reading:
    """Check that the database answers and can be written to, and count the users.

    It is not asked while `hasite-read-only` forbids to write: it may be locked by an upgrade.
    """
    found = sampler.of(repo)
    if found is not None and found.closing.only:
        text = "ServiceKO : nothing is written, by order of hasite-read-only"
        return Reading(False, text, checked=False)
    users = f"(SELECT COUNT(*) FROM {SQL_PREFIX}CWUser)"
    if repo.system_source.dbdriver != "postgres":
        [[count]] = query(repo, f"SELECT {users}")
        return Reading(True, f"ServiceOK : {count} users in DB", {"users": count})
    sql = f"SELECT {users}, pg_is_in_recovery(), current_setting('transaction_read_only')"
    [[count, standby, read_only]] = query(repo, sql)
    if standby or read_only == "on":
        # the connection may be pinned to a server that was demoted meanwhile
        [[count, standby, read_only]] = query(repo, sql, reconnect=True)
    if standby or read_only == "on":
        why = "it is a standby" if standby else "transaction_read_only is on"
        text = f"ServiceKO : the database is read-only, {why}"
        return Reading(False, text, {"users": count})
    return Reading(True, f"ServiceOK : {count} users in DB", {"users": count})


def version(repo: Repository) -> Reading:
    """Check that the versions installed are those that the database was upgraded to."""
    prefix = "system.version."
    rows = query(
        repo,
        f"SELECT {SQL_PREFIX}pkey, {SQL_PREFIX}value FROM {SQL_PREFIX}CWProperty "
        f"WHERE {SQL_PREFIX}pkey LIKE '{prefix}%'",
    )
    in_database = {key.removeprefix(prefix): value for key, value in rows}
    installed = installed_versions(repo.config, in_database)
    values = {"installed": installed, "database": in_database}
    text = versions.monitor_text(installed, in_database)
    return Reading(installed == in_database, text, values)


def hostname(repo: Repository) -> Reading:
    """Return the name of the instance, by default that of its host."""
    name = repo.config["hasite-instance-name"] or gethostname()
    return Reading(True, name, {"name": name})


def storage(repo: Repository) -> Reading:
    """Tell whether the storages of bytes work, as found in the background.

    Where one does not, all instances are concerned, and pages are served all the same.
    """
    failures = list(check.failures(repo, repo.config["hasite-storage-deadline"]))
    values = {"storages": check.names(repo)}
    if failures:
        return Reading(True, f"degraded : {'; '.join(failures)}", values, degraded=True)
    return Reading(True, "the storages work", values)


#: the probe of each monitor
PROBES: dict[str, Callable[[Repository], Reading]] = {
    "monitor_pool": pool,
    "monitor_db": db,
    "monitor_version": version,
    "monitor_hostname": hostname,
}
_OTHERS = {"free_pool": free_pool, "storage": storage}


def installed_versions(config: CubicWebConfiguration, cubes: Iterable[str]) -> dict[str, str]:
    """Return the versions on disk of cubicweb, of the given cubes and of their dependencies.

    Cubes that are not installed are left out. This process may run older versions: a package may
    have been upgraded since it started.
    """
    result = {}
    # in the directory where packages are, which changes when one is installed
    cubicweb = _on_disk(
        "cubicweb",
        lambda: str(distribution("cubicweb").locate_file("")),
        lambda _path: str(config.cubicweb_version()),
    )
    if cubicweb:
        result["cubicweb"] = cubicweb
    todo = set(cubes) - {"cubicweb"}
    seen = set()
    while todo:
        cube = todo.pop()
        seen.add(cube)
        if pkginfo := _pkginfo_on_disk(cube):
            result[cube], dependencies = pkginfo
            todo |= dependencies - seen
    return result


# by name: the path of a file or directory, its identity, and what was read there
_known: dict[str, tuple[str, tuple[int, ...], Any]] = {}


def _on_disk(name: str, find: Callable[[], str | None], read: Callable[[str], Any]) -> Any:
    """Return what is on disk now, None if it is not there. It is read again after a change."""
    try:
        path, identity, value = _known[name]
        if _identity(path) == identity:
            return value
    except (KeyError, OSError):  # unknown, moved or gone
        pass
    try:
        found = find()
        if found is None:
            return None
        identity = _identity(found)
        value = read(found)
    except (ImportError, OSError):
        return None
    _known[name] = found, identity, value
    return value


def _pkginfo_on_disk(cube: str) -> tuple[str, set[str]] | None:
    """Return a cube's version and the cubes it depends on, from its `__pkginfo__`.

    See `CubicWebConfiguration.cube_pkginfo`.
    """

    def find() -> str | None:
        spec = find_spec(f"cubicweb_{cube}.__pkginfo__")
        return spec.origin if spec else None

    def read(path: str) -> tuple[str, set[str]]:
        pkginfo = runpy.run_path(path)
        version = ".".join(str(number) for number in pkginfo["numversion"])
        return version, set(_dependencies(pkginfo))

    return _on_disk(cube, find, read)


def _identity(path: str) -> tuple[int, ...]:
    stat = os.stat(path)
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _dependencies(pkginfo: Mapping[str, Any]) -> Iterable[str]:
    """Return the dependencies of a cube; see `CubicWebConfiguration.cube_dependencies`."""
    if "__depends_cubes__" in pkginfo:
        return pkginfo["__depends_cubes__"]
    names = (name for name in pkginfo.get("__depends__", ()) if name.startswith("cubicweb-"))
    return [name.removeprefix("cubicweb-") for name in names]
