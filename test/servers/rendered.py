"""The web server part of a rendered site, run on loopback as its files say, byte for byte.

Each program's own options say where it finds them and where it writes; ports are those of the
site file.
"""

import re
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import requests

from servers.support import Server, ServerProcess, find_program, give, listens, system_user

_SITE = """\
[hosts.all]
address = "127.0.0.1"
roles = ["balancer", "web", "database"]
processors = 2
memory = 1

[sites.{name}]
url = "http://127.0.0.1:{http}/"
cache_port = {cache}
apache_port = {apache}
instance_port = {instance}
management_port = {management}

[balancer]
http_port = {http}
management_port = {statistics}

[squid]
memory = 64
manager_port = {manager}

{apache_section}

[instances]
virtualenv = "{virtualenv}"
configuration = "{configuration}"

[postgresql]
port = {postgresql}
"""


def site_file(
    name: str, *, apache: bool, configuration: Path, postgresql: int
) -> tuple[str, dict[str, int]]:
    """Return a site file for one host, on free ports of loopback, and these ports.

    :param name: name of the site
    :param configuration: the folder of the instance's configuration
    :param postgresql: port of PostgreSQL
    """
    names = (
        "http",
        "statistics",
        "manager",
        "status",
        "cache",
        "apache",
        "instance",
        "management",
    )
    ports = dict(zip(names, free_port_pairs(len(names)), strict=True))
    section = f"[apache]\nstatus_port = {ports['status']}" if apache else ""
    text = _SITE.format(
        name=name,
        virtualenv=sys.prefix,
        configuration=configuration,
        postgresql=postgresql,
        apache_section=section,
        **ports,
    )
    return text, ports


def free_port_pairs(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 on which nothing listens, nor on the one after each."""
    pairs: list[int] = []
    with ExitStack() as taken:
        while len(pairs) < count:
            first = taken.enter_context(closing(socket.socket()))
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            following = taken.enter_context(closing(socket.socket()))
            try:
                following.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            pairs.append(port)
    return pairs


class RenderedInstance(Server, ServerProcess):
    """An instance, started by the command of its systemd unit in the environment that it gives.

    :param root: the rendered files of the host
    :param site: name of the site
    :param number: which instance
    :param port: its port
    :param directory: where it writes
    """

    def __init__(self, root: Path, site: str, number: int, port: int, directory: Path) -> None:
        self.port = port
        unit = (root / f"etc/systemd/system/cubicweb-{site}@.service").read_text()
        env = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
        for path in re.findall(r"(?m)^EnvironmentFile=(/.*)$", unit):
            text = (root / path.lstrip("/").replace("%i", str(number))).read_text()
            env |= dict(word.split("=", 1) for word in shlex.split(text, comments=True))
        # where it writes, on this machine
        env |= {
            "CW_INSTANCES_DATA_DIR": str(directory),
            "CW_RUNTIME_DIR": str(directory),
            "CW_LOG_FILE": str(directory / f"{number}.cubicweb"),
            "CW_PID_FILE": str(directory / f"{number}.pid"),
            # nobody listens there: mail is refused at once
            "CW_SMTP_HOST": "127.0.0.1",
            "CW_SMTP_PORT": "1",
        }
        command = re.search(r"(?m)^ExecStart=(.*)$", unit)[1].replace("${CW_PORT}", env["CW_PORT"])
        super().__init__(
            shlex.split(command.replace('("', "('").replace('")', "')")),
            directory / f"{number}.log",
            env=env,
        )

    def start(self) -> None:
        """Start the instance and wait until it answers."""
        self.spawn(self.answers, timeout=90)

    def answers(self) -> bool:
        """Return whether it answers a request."""
        try:
            url = f"http://127.0.0.1:{self.port}/livez"
            return requests.get(url, timeout=5).status_code == 200
        except requests.RequestException:
            return False


class RenderedHAProxy(Server, ServerProcess):
    """HAProxy with the site's file, and a global section of its own."""

    def __init__(self, root: Path, port: int, directory: Path) -> None:
        self.port = port
        own = directory / "haproxy.cfg"
        own.write_text("global\n    log stdout format raw local0\n")
        site = root / "etc/haproxy/hasite.cfg"
        program = find_program("haproxy", "haproxy")
        super().__init__(
            [program, "-db", "-f", str(own), "-f", str(site)], directory / "haproxy.log"
        )

    def start(self) -> None:
        """Start HAProxy and wait until it listens."""
        self.spawn(lambda: listens(self.port))


class RenderedSquid(Server, ServerProcess):
    """Squid with the site's file, and a main file that says where it writes."""

    def __init__(self, root: Path, port: int, directory: Path) -> None:
        self.port = port
        folder = directory / "squid"
        account = system_user("proxy")
        give(folder, account)
        self.name = f"hasite{port}"
        own = folder / "squid.conf"
        own.write_text(
            f"include {root}/etc/squid/hasite.conf\n"
            "visible_hostname all\n"
            "pid_filename none\n"
            "coredump_dir none\n"
            "netdb_filename none\n"
            f"cache_log {folder}/cache.log\n"
            f"access_log stdio:{folder}/access.log hasite\n"
            "buffered_logs off\n"
        )
        program = find_program("squid", "squid")
        super().__init__(
            [program, "-N", "-n", self.name, "-f", str(own)], folder / "squid.log", user=account
        )

    def start(self) -> None:
        """Start Squid and wait until it listens."""
        self.spawn(lambda: listens(self.port))

    def kill(self) -> None:
        """Kill Squid."""
        super().kill()
        for path in Path("/dev/shm").glob(f"{self.name}-*"):
            path.unlink()


class RenderedApache(Server, ServerProcess):
    """Apache with the rendered file, in an environment that says where it writes."""

    def __init__(self, root: Path, port: int, directory: Path) -> None:
        self.port = port
        folder = directory / "apache"
        give(folder, None)
        env = {
            "APACHE_RUN_DIR": str(folder),
            "APACHE_LOG_DIR": str(folder),
            "APACHE_PID_FILE": str(folder / "apache.pid"),
            "APACHE_RUN_USER": "www-data",
            "APACHE_RUN_GROUP": "www-data",
        }
        program = find_program("apache2", "apache2-bin")
        site = root / "etc/apache2/apache2.conf"
        super().__init__(
            [program, "-D", "FOREGROUND", "-f", str(site)], folder / "apache.log", env=env
        )

    def start(self) -> None:
        """Start Apache and wait until it listens."""
        self.spawn(lambda: listens(self.port))


class RenderedSite(Server):
    """The programs of a rendered host: two instances, Apache if rendered, Squid, HAProxy.

    :param root: the rendered files of the host
    :param site: name of the site
    :param ports: those that :func:`site_file` returned
    :param directory: where they write
    """

    def __init__(self, root: Path, site: str, ports: dict[str, int], directory: Path) -> None:
        self.url = f"http://127.0.0.1:{ports['http']}/"
        self.statistics = f"http://127.0.0.1:{ports['statistics']}/"
        directory.mkdir()
        directory.chmod(0o755)
        port = ports["instance"]
        #: the instances, by what monitor_hostname says of them
        self.instances = {
            f"all:{port + index}": RenderedInstance(root, site, index + 1, port + index, directory)
            for index in range(2)
        }
        self.squid = RenderedSquid(root, ports["cache"], directory)
        self.haproxy = RenderedHAProxy(root, ports["http"], directory)
        self._programs: list[Server] = [*self.instances.values()]
        if (root / "etc/apache2").exists():
            self._programs.append(RenderedApache(root, ports["apache"], directory))
        self._programs += [self.squid, self.haproxy]

    def start(self) -> None:
        """Start all the programs."""
        with ExitStack() as stack:
            for program in self._programs:
                stack.enter_context(program)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Stop all the programs."""
        self.squid.kill()  # it stops slowly
        self._stack.close()

    def in_service(self) -> set[str]:
        """Return the names of the instances that HAProxy has in service."""
        rows = requests.get(f"{self.statistics};csv", timeout=5).text.splitlines()
        return {name for name in self._up(rows)}

    def _up(self, rows: list[str]) -> Iterator[str]:
        names = list(self.instances)
        for row in rows:
            fields = row.split(",")
            if len(fields) > 17 and not fields[0].endswith("-cached") and fields[17] == "UP":
                if match := re.fullmatch(r"all-(\d)", fields[1]):
                    yield names[int(match[1]) - 1]
