"""The sections of a site file about upgrades and their rehearsals."""

from typing import Annotated

from pydantic import Field

from cubicweb_hasite.deploy.sections import Section
from cubicweb_hasite.deploy.values import (
    AbsolutePath,
    Address,
    ConnectionString,
    Name,
    Positive,
    ReachCommand,
)


class Check(Section):
    """A page that must be right after an upgrade."""

    path: str = Field(pattern=r"^/[^\s'\"]*$")
    """Path of the page, and its query, such as /view?vid=index."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """Status of its answer."""
    text: str = Field(default="", pattern=r"^[^'\n]*$")
    """What must be in it."""


class Upgrade(Section):
    """How production is upgraded, and so what is rehearsed."""

    requirements: str = Field(default="requirements.txt", pattern=r"^[\w./-]+$")
    """File beside the site file that lists what is installed, in pip's format: the cubes with
    their new versions, gunicorn, psycopg2-binary."""
    checks: list[Check] = []
    """Pages that must be right: each a `path`, and `status` (200) and `text` if wanted."""
    reach: ReachCommand = "ssh -o BatchMode=yes root@{address}"
    """How a shell command is run on a host as root: a command to which it is added as one more
    argument. `{host}` stands for the host's name, `{address}` for its address."""
    backup: str = "systemctl start hasite-backup"
    """Command that makes a backup, on the host with the role "backup", else on the first database
    node; without nodes, on the machine from which production is upgraded. Empty: you make it
    yourself."""
    max_age_hours: Positive = 72
    """Age of a rehearsal beyond which production is not upgraded by it."""
    longest_wait: Positive = 3
    """Seconds that a page may take during a migration for the upgrade to be called rolling."""


class PreProduction(Section):
    """The server on which upgrades are rehearsed. hasite-rehearse runs there, as a user who may
    make databases on a PostgreSQL server that has nothing to do with production's."""

    address: Address | None = None
    """IP address from which it reads production's database: its nodes let it in."""
    database: ConnectionString = "host=/var/run/postgresql"
    """How to reach the PostgreSQL server on which copies are made, in libpq's format. Neither
    production, nor any other server of the same cluster."""
    reader: Name = "rehearsal"
    """User of PostgreSQL by whom production is read: a member of pg_read_all_data."""
    anonymise: str | None = Field(default=None, pattern=r"^[\w./-]+$")
    """File of SQL beside the site file which makes the copy anonymous. It may not change the
    login of the administrator by whom migrations are run."""
    configuration: AbsolutePath | None = None
    """Folder with a copy of the instances' configuration of production; by default where it is
    on the web servers."""
    virtualenv: AbsolutePath | None = None
    """The Python environment that production runs now, on this server; by default where it is on
    the web servers. The running version is tried on the upgraded copy."""
    python: str = Field(default="python3", pattern=r"^[\w./-]+$")
    """Python with which the new environment is made."""
    port: Annotated[int, Field(ge=1024, le=65532)] = 8990
    """First of four ports of 127.0.0.1 for the instances that are tried."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Tables that are copied at a time."""
