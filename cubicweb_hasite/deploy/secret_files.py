"""The files that hold secrets, on the hosts of a site."""

import re
from typing import Any

from cubicweb_hasite.deploy.site import Site


def secrets(site: Site) -> list[dict[str, Any]]:
    """Return the files that hold secrets, which the runbook makes and nothing rendered holds."""
    web, nodes = list(site.web), list(site.database)
    result: list[dict[str, Any]] = []

    def add(hosts: list[str], path: str, owner: str, holds: str, *lines: str) -> None:
        # lines of options may be left out
        needed = [
            re.split("PASSWORD|KEY_ID$", line)[0] for line in lines if not line.startswith("CW_")
        ]
        result.append(
            {
                "hosts": hosts,
                "path": path,
                "owner": owner,
                "holds": holds,
                "short": holds.partition(";")[0].replace("`", ""),
                "lines": lines,
                "needed": needed,
            }
        )

    bucket = f"the key to the bucket {site.storage.bucket}; " if site.storage else ""
    keys = ("AWS_ACCESS_KEY_ID=KEY_ID", "AWS_SECRET_ACCESS_KEY=PASSWORD") if site.storage else ()
    for name in site.sites:
        database = site.database_name(name)
        add(
            web,
            f"/etc/hasite/secrets/{name}.pgpass",
            site.instances.user,
            f"the password of the user `{database}` of PostgreSQL",
            f"*:{site.postgresql.port}:{database}:{database}:PASSWORD",
        )
        add(
            web,
            f"/etc/hasite/secrets/{name}.env",
            "root",
            f"options of the site that are secret; {bucket}the user as whom visitors see it who "
            "are not logged in, with any password: leave both out if all have to log in",
            "CW_ANONYMOUS_USER=anon",
            "CW_ANONYMOUS_PASSWORD=PASSWORD",
            *keys,
        )
    if site.patroni:
        add(
            nodes,
            "/etc/patroni_env.conf",
            "root",
            "the passwords of PostgreSQL's own users, the same on all nodes",
            "PATRONI_SUPERUSER_PASSWORD=PASSWORD",
            "PATRONI_REPLICATION_PASSWORD=PASSWORD",
            "PATRONI_REWIND_PASSWORD=PASSWORD",
        )
    elif len(nodes) > 1:
        add(
            nodes,
            "/var/lib/postgresql/.pgpass",
            "postgres",
            "the password of the user `replicator` of PostgreSQL",
            f"*:{site.postgresql.port}:*:replicator:PASSWORD",
        )
    if site.backup and site.backup.encryption:
        add(
            list(site.backup_hosts),
            "/etc/pgbackrest/conf.d/passphrase.conf",
            "postgres",
            "the passphrase of the backups; keep a copy of it in another place, where it survives "
            "this host",
            "[global]",
            "repo1-cipher-pass=PASSWORD",
        )
    return result
