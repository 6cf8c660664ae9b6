"""What the monitors measure: one aspect of an instance's health each.

A probe takes the repository and returns a :class:`Reading`. Those that ask the database do it on
a connection and a thread of their own (:mod:`cubicweb_hasite.probe_connection`), so that they
answer when the database does not, and when the pool is exhausted. They only read.

Knows the repository, not the web.
"""

import logging
import runpy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from socket import gethostname
from typing import Any

from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.server.repository import Repository
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite.probe_connection import DatabaseUnavailable, query

log = logging.getLogger(__name__)

UNKNOWN_VERSION = "?"


@dataclass(frozen=True)
class Reading:
    """What a probe found."""

    ok: bool
    text: str

    @property
    def status(self) -> int:
        """HTTP status that says it to a monitoring system or a load balancer."""
        return 200 if self.ok else 503


def read(name: str, repo: Repository) -> Reading:
    """Return the reading of the probe of the monitor called `name`. Never raises."""
    try:
        return PROBES[name](repo)
    except DatabaseUnavailable as exc:
        return Reading(False, f"ServiceKO : {exc}")
    except Exception:
        log.exception("%s failed", name)
        return Reading(False, "ServiceKO : the monitor failed, see the log of the instance")


def pool(repo: Repository) -> Reading:
    """Measure how much of the pool of database connections is in use, in percent."""
    cnxsets = repo.cnxsets
    free = cnxsets.qsize()
    if free is None:
        return Reading(True, "no pool : each request opens a connection")
    in_use = cnxsets.size() - free
    if not cnxsets.max_size:
        return Reading(True, f"unlimited pool : {in_use} connections in use")
    return Reading(True, f"{in_use * 100 / cnxsets.max_size:.1f}%")


def db(repo: Repository) -> Reading:
    """Check that the database answers, by counting the users."""
    [[count]] = query(repo, f"SELECT COUNT(*) FROM {SQL_PREFIX}CWUser")
    return Reading(True, f"ServiceOK : {count} users in DB")


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
    cubes = sorted(in_database | installed, key=lambda cube: (cube != "cubicweb", cube))
    file_system, database = (
        " | ".join(f"{cube}: {versions.get(cube, UNKNOWN_VERSION)}" for cube in cubes)
        for versions in (installed, in_database)
    )
    if file_system == database:
        return Reading(True, f"ServiceOK : FS config {file_system} == DB config {database}")
    return Reading(False, f"ServiceKO : FS config {file_system} != DB config {database}")


def hostname(repo: Repository) -> Reading:
    """Tell which host answers or, where it has a name of its own, which instance."""
    return Reading(True, repo.config["hasite-instance-name"] or gethostname())


#: the probe of each monitor
PROBES: dict[str, Callable[[Repository], Reading]] = {
    "monitor_pool": pool,
    "monitor_db": db,
    "monitor_version": version,
    "monitor_hostname": hostname,
}


def installed_versions(config: CubicWebConfiguration, cubes: Iterable[str]) -> dict[str, str]:
    """Return the versions on disk of cubicweb, of the given cubes and of those they depend on.

    Cubes that are not installed are left out. What is loaded in this process may be older: a
    package may have been upgraded since it started.
    """
    versions = {"cubicweb": str(config.cubicweb_version())}
    todo = set(cubes) - {"cubicweb"}
    seen = set()
    while todo:
        cube = todo.pop()
        seen.add(cube)
        if pkginfo := _pkginfo_on_disk(cube):
            versions[cube] = ".".join(str(number) for number in pkginfo["numversion"])
            todo |= set(_dependencies(pkginfo)) - seen
    return versions


def _pkginfo_on_disk(cube: str) -> Mapping[str, Any] | None:
    """Run a cube's `__pkginfo__` again; see `CubicWebConfiguration.cube_pkginfo`."""
    try:
        spec = find_spec(f"cubicweb_{cube}.__pkginfo__")
        return runpy.run_path(spec.origin) if spec else None
    except (ImportError, OSError):
        return None


def _dependencies(pkginfo: Mapping[str, Any]) -> Iterable[str]:
    """Return the cubes that a cube depends on; see `CubicWebConfiguration.cube_dependencies`."""
    if "__depends_cubes__" in pkginfo:
        return pkginfo["__depends_cubes__"]
    names = (name for name in pkginfo.get("__depends__", ()) if name.startswith("cubicweb-"))
    return [name.removeprefix("cubicweb-") for name in names]
