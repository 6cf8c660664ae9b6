"""The section of a site file about backups by pgBackRest."""

from typing import Annotated, Literal

from pydantic import Field

from cubicweb_hasite.deploy.sections import Section
from cubicweb_hasite.deploy.values import AbsolutePath, Port, Positive


class Backup(Section):
    """Backups by pgBackRest, on the host with the role "backup": all that is committed is there
    after a minute at most, and the database can be restored to any second. Without this section
    each database node makes base backups of its own, which are lost with it."""

    folder: AbsolutePath = "/var/lib/pgbackrest"
    """Where the backup host keeps the backups and the archive of changes."""
    encryption: bool = True
    """Whether they are encrypted, by a passphrase that the backup host alone has. Keep a copy of
    it elsewhere: without it no backup can be read."""
    test_folder: AbsolutePath = "/var/lib/postgresql/restoration-test"
    """Where the backup host restores the last backup once a week, for a test; it is removed
    afterwards. It needs as much room as the database."""
    hour: Annotated[int, Field(ge=0, le=23)] = 2
    """Hour of the nightly backup. It is a full one if the last full one is a week old, else it
    holds what has changed."""
    keep_full: Positive = 4
    """Number of full backups that are kept, each with all that followed it: about as many weeks
    back the database can be restored to any second."""
    archive_timeout: Annotated[int, Field(ge=1, le=60)] = 60
    """Seconds after which a change is sent to the backup host, however small: at most that much
    is lost with all the database nodes."""
    compress: Literal["zst", "lz4", "gz", "none"] = "zst"
    """How files are compressed: zst, lz4 (faster, larger), gz, none."""
    processes: Annotated[int, Field(ge=1, le=64)] = 2
    """Processes that compress and copy at a time."""
    port: Port = 8432
    """Port of pgBackRest on the backup host and on the database nodes, which speak TLS."""
