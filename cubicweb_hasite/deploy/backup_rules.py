"""What must hold between the section of backups, the hosts and the database."""

from collections.abc import Iterator

from cubicweb_hasite.deploy.site import Key, Site


def problems(site: Site) -> Iterator[tuple[Key, str]]:
    """Yield the key and the message of each rule that is broken."""
    hosts = list(site.backup_hosts)
    if not site.backup:
        for name in hosts:
            yield (
                ("hosts", name, "roles"),
                'the role "backup" needs [backup]; add it, or remove the role',
            )
        return
    if not site.database:
        yield (
            ("backup",),
            "the database is run by somebody else, who makes its backups; leave this out",
        )
    if not hosts:
        yield ("backup",), 'no host has the role "backup"; add it to one, or leave this out'
    for name in hosts[1:]:
        yield (
            ("hosts", name, "roles"),
            f'{hosts[0]} has the role "backup" already; give it to one host',
        )
    for name in hosts:
        if name in site.database:
            yield (
                ("hosts", name, "roles"),
                "it is a database node, and backups would be lost with it; give the role "
                '"backup" to another host',
            )
