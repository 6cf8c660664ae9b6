"""The files of the database nodes, and of the host that keeps their backups."""

from collections.abc import Iterator
from typing import Any, Protocol

from cubicweb_hasite.deploy import tables
from cubicweb_hasite.deploy.output import File
from cubicweb_hasite.deploy.site import Host, Site


class Make(Protocol):
    """Makes a file from a template."""

    def __call__(self, template: str, mode: int = 0o644, **context: Any) -> File:
        """Return the file.

        :param mode: its mode on the host
        :param context: variables of the template
        """
        ...


def node_files(site: Site, make: Make, name: str, host: Host) -> Iterator[tuple[str, File]]:
    """Yield the files of a database node, by their paths on it without the first `/`."""
    postgresql = site.postgresql
    context: dict[str, Any] = {
        "name": name,
        "host": host,
        "sizes": tables.sizes(host.memory or 1, postgresql.max_connections),
        "hba": list(tables.hba(site)),
        "other_nodes": [o.address for n, o in site.database.items() if n != name],
    }
    if site.patroni:
        yield "etc/patroni/config.yml", make("patroni/config.yml", **context)
    else:
        folder = f"etc/postgresql/{postgresql.version}/main"
        yield f"{folder}/conf.d/hasite.conf", make("postgresql/hasite.conf", **context)
        yield f"{folder}/pg_hba.conf", make("postgresql/pg_hba.conf", **context)
    if not site.backup:
        yield "usr/local/sbin/hasite-backup", make("sbin/hasite-backup", 0o755)
        for unit in ("hasite-backup.service", "hasite-backup.timer"):
            yield f"etc/systemd/system/{unit}", make(f"systemd/{unit}")


def backup_files(site: Site, make: Make, name: str, host: Host) -> Iterator[tuple[str, File]]:
    """Yield the files of a host about backups by pgBackRest, in the same way."""
    if name in tables.certified(site):
        path = "etc/pgbackrest/pgbackrest.conf"
        cluster = "hasite" if site.patroni else "main"
        data = f"/var/lib/postgresql/{site.postgresql.version}/{cluster}"
        yield path, make("pgbackrest/pgbackrest.conf", host=host, data=data)
    if site.backup and "backup" in host.roles:
        yield "etc/pgbackrest/beside.conf", make("pgbackrest/beside.conf")
        databases = list(map(site.database_name, site.sites))
        for script in ("hasite-backup", "hasite-restore-beside"):
            yield (
                f"usr/local/sbin/{script}",
                make(f"pgbackrest/{script}", 0o755, databases=databases),
            )
        for unit in ("hasite-backup", "hasite-test-restoration"):
            for kind in ("service", "timer"):
                path = f"etc/systemd/system/{unit}.{kind}"
                yield path, make(f"pgbackrest/{unit}.{kind}")
