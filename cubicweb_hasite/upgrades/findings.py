"""What the steps of a rehearsal find, for later steps, for the report and for production.

Each step has a class, whose attributes have a default until the step has found them.
"""

from dataclasses import dataclass, field

from cubicweb_hasite.upgrades.catalog import Change
from cubicweb_hasite.upgrades.instance import Visits
from cubicweb_hasite.upgrades.locks import Lock


@dataclass
class Identified:
    """The servers.

    :param source: the node of production that is copied
    :param behind: bytes of WAL that this node has still to replay, None if that is not known
    :param target: the server of the copies
    """

    source: str = ""
    behind: int | None = None
    target: str = ""


@dataclass
class Copied:
    """The dump.

    :param dump: its size in bytes
    :param tables: the size of each table in bytes, for the progress bars
    """

    dump: int = 0
    tables: dict[str, int] = field(default_factory=dict)


@dataclass
class Restored:
    """The copy.

    :param size: its size in bytes
    """

    size: int = 0


@dataclass
class Packaged:
    """The packages of the new versions.

    :param requirements: digest of the requirements
    :param size: size of the packages in bytes
    :param install_seconds: duration of their installation
    """

    requirements: str = ""
    size: int = 0
    install_seconds: float = 0.0


@dataclass
class Upgraded:
    """The upgrade of the copy.

    :param site_file: digest of the site file
    :param versions_before: versions in the database (`cubicweb_hasite.versions`)
    :param versions_after: the same after the upgrade
    :param monitor_after: text of monitor_version after the upgrade
    :param upgrade_seconds: duration of `cubicweb-ctl upgrade`
    :param start_seconds: duration of the start of an instance
    :param check_seconds: duration of the monitors and the checks of the site file
    :param size: size of the upgraded database in bytes
    :param changes: changes of the schema
    :param locks: locks that the migration held
    :param longest_wait: the longest time that a process waited for a lock, in seconds
    :param visits: visits of the running version during the migration
    :param against_rolling: reasons why the upgrade cannot be rolling
    """

    site_file: str = ""
    versions_before: str = ""
    versions_after: str = ""
    monitor_after: str = ""
    upgrade_seconds: float = 0.0
    start_seconds: float = 0.0
    check_seconds: float = 0.0
    size: int = 0
    changes: list[Change] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    longest_wait: float = 0.0
    visits: Visits = field(default_factory=Visits)
    against_rolling: list[str] = field(default_factory=list)


@dataclass
class ReadOnly:
    """The running version on a copy that cannot be written to.

    :param against: reasons why visitors cannot read pages during the upgrade
    """

    against: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """The findings of all steps."""

    identify: Identified = field(default_factory=Identified)
    copy: Copied = field(default_factory=Copied)
    restore: Restored = field(default_factory=Restored)
    packages: Packaged = field(default_factory=Packaged)
    upgrade: Upgraded = field(default_factory=Upgraded)
    read_only: ReadOnly = field(default_factory=ReadOnly)
