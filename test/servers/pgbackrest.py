"""A database whose backups pgBackRest makes, by the files that are rendered for its hosts."""

import os
import re
import shlex
import shutil
import socketserver
import subprocess
import threading
from pathlib import Path

from cubicweb_hasite.deploy import load, render
from servers.postgresql import PostgreSQL
from servers.support import (
    Server,
    ServerProcess,
    find_program,
    free_port,
    give,
    listens,
    system_user,
)

#: addresses of this machine, in place of those of the site file, which must not be of loopback
_ADDRESSES = {"db1": "127.0.0.31", "store": "127.0.0.61"}
_SITE = """\
[hosts.lb1]
address = "192.0.2.11"
roles = ["balancer"]
[hosts.web1]
address = "192.0.2.21"
roles = ["web"]
processors = 1
[hosts.db1]
address = "192.0.2.31"
roles = ["database"]
memory = 1
[hosts.store]
address = "192.0.2.61"
roles = ["backup", "monitoring"]

[sites.site]
url = "http://www.example.org/"

[squid]

[postgresql]
port = {database_port}

[backup]
folder = "{folder}/backups"
test_folder = "{folder}/test"
port = {port}
archive_timeout = 1
compress = "lz4"
{keys}

[upgrade]
reach = "{folder}/on {{host}}"

[prometheus]
"""
#: runs a command on "the host" $1, whose programs and files are those of the test
_ON = """\
#!/bin/sh
cd {folder}/$1
. ./environment
command=$(printf %s "$2" | sed 's|/var/lib/postgresql/15/main|{folder}/db/cluster|g{more}')
exec sh -c "$command"
"""
#: what `su postgres -c COMMAND` does for who is root, and for who is not
_SU = """\
#!/bin/sh
if [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid postgres --regid postgres --init-groups -- sh -c "$3"
fi
exec sh -c "$3"
"""
_SYSTEMCTL = """\
#!/bin/sh
answer=$(printf '%s\\n' "$*" | socat -t 120 - UNIX-CONNECT:{folder}/systemd)
[ "$answer" = done ] || {{ echo "$answer"; exit 1; }}
"""
PASSPHRASE = "correct horse battery staple"
_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class _Systemd(socketserver.ThreadingUnixStreamServer):
    """Does for `systemctl` what systemd does on the database node: it starts and stops it."""

    daemon_threads = True

    def __init__(self, path: Path, database: PostgreSQL) -> None:
        self.database = database
        super().__init__(str(path), _Order)


class _Order(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        action, unit = self.rfile.readline().decode().split()
        try:
            assert unit == "postgresql@15-main", unit
            {"start": self.server.database.start, "stop": self.server.database.stop}[action]()
            answer = "done"
        except Exception as error:
            answer = repr(error)
        self.wfile.write(answer.encode())


class BackedUp(Server):
    """A PostgreSQL server, and the host that keeps its backups.

    Both hosts are this machine; each has a folder for its files, and its own server of pgBackRest.

    :param directory: a new directory, with a short path. Run by root, all servers run as user
        `postgres`, who must be able to reach it.
    :param keys: other keys of the section `[backup]`, in TOML
    """

    def __init__(self, directory: Path, keys: str = "") -> None:
        self.directory = directory
        self.repository = directory / "backups"
        self._account = system_user("postgres")
        give(directory, self._account)
        port, database_port = free_port(), free_port()
        #: its site file
        self.site_file = directory / "site.toml"
        self.site_file.write_text(
            _SITE.format(folder=directory, port=port, database_port=database_port, keys=keys)
        )
        self._rendering = render.render(load.load(self.site_file), drawing=False)
        self.database = PostgreSQL(
            directory / "db",
            database_port,
            settings=self._archiving(),
            env=self.environ("db1"),
        )
        # who is not root gives nothing to others
        more = "" if self._account else "; s| -o postgres -g postgres||g"
        _script(directory / "on", _ON.format(folder=directory, more=more))
        for host in _ADDRESSES:
            self._write(host)
        self._certify()
        self.servers = {
            host: ServerProcess(
                [find_program("pgbackrest", "pgbackrest"), "server"],
                directory / host / "server.log",
                env=self.environ(host),
                user=self._account,
            )
            for host in _ADDRESSES
        }
        self._port = port

    def environ(self, host: str) -> dict[str, str]:
        """Return the environment in which pgBackRest finds the files of a host."""
        folder = self.directory / host
        return {
            **os.environ,
            "PGBACKREST_CONFIG": str(folder / "pgbackrest.conf"),
            "PGBACKREST_CONFIG_INCLUDE_PATH": str(folder / "conf.d"),
            # Debian's is for user postgres alone
            "PGBACKREST_SPOOL_PATH": str(folder / "spool"),
        }

    def _archiving(self) -> dict[str, str]:
        """Return the settings of PostgreSQL that archive its changes, as they are rendered."""
        text = self.rendered("db1", "etc/postgresql/15/main/conf.d/hasite.conf")
        found = dict(re.findall(r"(?m)^(archive_\w+|restore_command) = '?(.*?)'?$", text))
        assert len(found) == 4, found
        return found

    def rendered(self, host: str, path: str) -> str:
        """Return a rendered file, with the paths of this machine."""
        text = self._rendering[f"{host}/{path}"].content.decode()
        folder = self.directory / host
        for there, here in {
            "192.0.2.31": _ADDRESSES["db1"],
            "192.0.2.61": _ADDRESSES["store"],
            "/etc/pgbackrest": folder,
            "/run/lock/pgbackrest": folder / "lock",
            "/var/lib/postgresql/15/main": self.directory / "db" / "cluster",
            "/var/run/postgresql": self.directory / "db",
            "/var/lib/prometheus/node-exporter": folder / "metrics",
        }.items():
            text = text.replace(there, str(here))
        return text

    def _write(self, host: str) -> None:
        folder = self.directory / host
        for each in (folder, folder / "conf.d", folder / "metrics", self.repository):
            give(each, self._account)
        (folder / "pgbackrest.conf").write_text(
            self.rendered(host, "etc/pgbackrest/pgbackrest.conf")
        )
        if host == "store":
            (folder / "beside.conf").write_text(self.rendered(host, "etc/pgbackrest/beside.conf"))
            self.set_passphrase(PASSPHRASE)
            for name in ("hasite-backup", "hasite-restore-beside"):
                _script(folder / name, self.rendered(host, f"usr/local/sbin/{name}"))
        _script(folder / "su", _SU)
        _script(folder / "systemctl", _SYSTEMCTL.format(folder=self.directory))
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", "PGHOST": self.directory / "db"}
        environment |= {"PGPORT": self.database.port, "PGDATABASE": "postgres"}
        for name, value in self.environ(host).items():
            if name.startswith("PGBACKREST_"):
                environment[name] = value
        lines = [
            f"export {name}={shlex.quote(str(value))}\n" for name, value in environment.items()
        ]
        (folder / "environment").write_text("".join(lines))

    def set_passphrase(self, passphrase: str) -> None:
        """Write the passphrase of the repository on the host that keeps it."""
        path = self.directory / "store" / "conf.d" / "passphrase.conf"
        path.write_text(f"[global]\nrepo1-cipher-pass={passphrase}\n")
        self._own(path)

    def _own(self, path: Path) -> None:
        path.chmod(0o600)
        if self._account:
            shutil.chown(path, self._account, self._account)

    def _certify(self) -> None:
        """Make the certificates as the runbook does."""
        authority = self.directory / "store"
        subject = ["-subj", "/CN=backups", "-keyout", "ca.key", "-out", "ca.crt"]
        _openssl(authority, "req", "-x509", *_CURVE, "-days", "2", *subject)
        for host, address in _ADDRESSES.items():
            folder = self.directory / host
            subject = ["-subj", f"/CN={address}", "-keyout", "host.key", "-out", "host.csr"]
            _openssl(folder, "req", "-new", *_CURVE, *subject)
            signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
            files = ["-in", f"{folder}/host.csr", "-out", f"{folder}/host.crt"]
            _openssl(authority, "x509", "-req", *signing, *files)
            self._own(folder / "host.key")
            if host != "store":
                shutil.copy(authority / "ca.crt", folder / "ca.crt")

    def start(self) -> None:
        """Start all servers, and make the stanza."""
        for host, server in self.servers.items():
            server.spawn(lambda address=_ADDRESSES[host]: listens(self._port, address))
        self.database.start()
        self._systemd = _Systemd(self.directory / "systemd", self.database)
        threading.Thread(target=self._systemd.serve_forever, daemon=True).start()
        self.pgbackrest("stanza-create")

    def stop(self) -> None:
        """Stop all servers."""
        self.database.stop()
        self._systemd.shutdown()
        self._systemd.server_close()
        for server in self.servers.values():
            server.stop()

    def run(
        self,
        host: str,
        *command: str | Path,
        check: bool = True,
        account: bool = True,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host.

        :param account: whether as user postgres, else as who runs the tests
        :raises RuntimeError: its status is not 0.
        """
        result = subprocess.run(
            list(map(str, command)),
            env=self.environ(host),
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            user=self._account if account else None,
            group=self._account if account else None,
            extra_groups=[] if self._account and account else None,
        )
        if check and result.returncode:
            raise RuntimeError(f"{command}: {result.stdout}")
        return result

    def pgbackrest(self, *arguments: str, host: str = "store") -> str:
        """Run pgBackRest on a host; return what it prints.

        :raises RuntimeError: it failed.
        """
        return self.run(host, "pgbackrest", "--stanza=hasite", *arguments).stdout

    def back_up(self) -> str:
        """Run `hasite-backup`; return what it prints."""
        return self.run("store", self.directory / "store" / "hasite-backup").stdout


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
