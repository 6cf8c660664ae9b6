"""The web server part of a rendered site, run on loopback as its files say, byte for byte.

Each program's own options say where it finds them and where it writes; ports are those of the
site file.
"""

import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import requests

from cubicweb_hasite.deploy import load, output, render
from servers import haproxy
from servers.instance import Instance
from servers.support import (
    Server,
    ServerProcess,
    consecutive_ports,
    find_program,
    give,
    listens,
    system_user,
)

_SITE = """\
[hosts.all]
address = "{address}"
management_address = "127.0.0.1"
roles = ["balancer", "web", "database"]
processors = 2
memory = 1

[sites.{name}]
url = "http://{address}:{http}/"
cache_port = {cache}
apache_port = {apache}
instance_port = {instance}
management_port = {management}
{site_keys}

[balancer]
http_port = {http}
management_port = {statistics}

[{cache_program}]
memory = 64
manager_port = {manager}

{apache_section}

[instances]
virtualenv = "{virtualenv}"
configuration = "{configuration}"

[postgresql]
port = {postgresql}

{more}
"""


def site_file(
    name: str,
    *,
    cache: str,
    apache: bool,
    configuration: Path,
    postgresql: int,
    site_keys: str = "",
    virtualenv: str | Path = sys.prefix,
    address: str = "127.0.0.1",
    more: str = "",
) -> tuple[str, dict[str, int]]:
    """Return a site file for one host, on free ports of loopback, and these ports.

    :param name: name of the site
    :param cache: `squid` or `varnish`
    :param configuration: the folder of the instance's configuration
    :param postgresql: port of PostgreSQL
    :param site_keys: other keys of the site, in TOML
    :param virtualenv: the Python environment of the instances
    :param address: that of the host, of loopback
    :param more: other sections
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
    # the next one is that of a second instance
    ports = {name: consecutive_ports(2) for name in names}
    section = f"[apache]\nstatus_port = {ports['status']}" if apache else ""
    text = _SITE.format(
        name=name,
        virtualenv=virtualenv,
        address=address,
        more=more,
        configuration=configuration,
        postgresql=postgresql,
        apache_section=section,
        cache_program=cache,
        site_keys=site_keys,
        **ports,
    )
    return text, ports


class RenderedInstance(ServerProcess, Server):
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
            "CW_PID_FILE": str(directory / f"{number}.pid"),
            "XDG_RUNTIME_DIR": str(directory / str(number)),
            # nobody listens there: mail is refused at once
            "CW_SMTP_HOST": "127.0.0.1",
            "CW_SMTP_PORT": "1",
        }
        command = re.search(r"(?m)^ExecStart=(.*)$", unit)[1].replace("${CW_PORT}", env["CW_PORT"])
        super().__init__(shlex.split(command), directory / f"{number}.log", env=env)

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


class RenderedHAProxy(ServerProcess, Server):
    """HAProxy with the site's file, and a global section of its own."""

    def __init__(self, root: Path, port: int, directory: Path) -> None:
        self.port = port
        own = directory / "haproxy.cfg"
        #: by which it is told what to do
        self.socket = directory / "haproxy.sock"
        log, socket = "log stdout format raw local0", f"stats socket {self.socket} level admin"
        own.write_text(f"global\n    {log}\n    {socket}\n")
        site = root / "etc/haproxy/hasite.cfg"
        #: the address where it listens
        self.host = re.search(rf"(?m)^ +bind (\S+):{port}\b", site.read_text())[1]
        program = find_program("haproxy", "haproxy")
        super().__init__(
            [program, "-db", "-f", str(own), "-f", str(site)], directory / "haproxy.log"
        )

    def start(self) -> None:
        """Start HAProxy and wait until it listens."""
        self.spawn(lambda: listens(self.port, self.host))


class RenderedSquid(ServerProcess, Server):
    """Squid with the site's file, and a main file that says where it writes."""

    def __init__(self, root: Path, port: int, directory: Path) -> None:
        self.port = port
        folder = directory / "squid"
        account = system_user("proxy")
        give(folder, account)
        self.name = f"hasite{port}"
        conf = (root / "etc/squid/hasite.conf").read_text()
        self._host = re.search(rf"(?m)^http_port (\S+):{port}\b", conf)[1]
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
        self.spawn(lambda: listens(self.port, self._host))

    def kill(self) -> None:
        """Kill Squid."""
        super().kill()
        for path in Path("/dev/shm").glob(f"{self.name}-*"):
            path.unlink()


class RenderedVarnish(ServerProcess, Server):
    """Varnish, started by the command of its systemd unit, with the site's file."""

    def __init__(self, root: Path, port: int, directory: Path) -> None:
        self.port = port
        folder = directory / "varnish"
        give(folder, None)
        unit = (root / "etc/systemd/system/varnish.service.d/hasite.conf").read_text()
        command = shlex.split(re.findall(r"(?m)^ExecStart=(.+)$", unit)[-1])
        command[0] = find_program("varnishd", "varnish")
        command[command.index("-f") + 1] = str(root) + command[command.index("-f") + 1]
        del command[command.index("-S") : command.index("-S") + 2]  # made when it is installed
        if not system_user("vcache"):
            del command[command.index("-j") : command.index("-j") + 2]
        command += ["-n", str(folder / "state"), "-l", "8m"]
        super().__init__(command, directory / "varnish.log")

    def start(self) -> None:
        """Start Varnish and wait until it listens."""
        self.spawn(lambda: listens(self.port))


class RenderedApache(ServerProcess, Server):
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
        program = find_program("apache2", "apache2")
        site = root / "etc/apache2/apache2.conf"
        super().__init__(
            [program, "-D", "FOREGROUND", "-f", str(site)], folder / "apache.log", env=env
        )

    def start(self) -> None:
        """Start Apache and wait until it listens."""
        self.spawn(lambda: listens(self.port))


class RenderedSite(Server):
    """The programs of a rendered host: two instances, Apache if rendered, the cache, HAProxy.

    :param root: the rendered files of the host
    :param site: name of the site
    :param ports: those that :func:`site_file` returned
    :param directory: where they write
    """

    def __init__(self, root: Path, site: str, ports: dict[str, int], directory: Path) -> None:
        self.statistics = f"http://127.0.0.1:{ports['statistics']}/"
        directory.mkdir()
        directory.chmod(0o755)
        port = ports["instance"]
        #: the instances, by what monitor_hostname says of them
        self.instances = {
            f"all:{port + index}": RenderedInstance(root, site, index + 1, port + index, directory)
            for index in range(2)
        }
        #: the ports of the cache, by the same
        self.cache_ports = {name: ports["cache"] + n for n, name in enumerate(self.instances)}
        cache = RenderedSquid if (root / "etc/squid").exists() else RenderedVarnish
        self._cache = cache(root, ports["cache"], directory)
        self._programs: list[Server] = [*self.instances.values()]
        apache = (root / "etc/apache2").exists()
        #: no other program stands between Squid and the instances, nor in Squid's place
        self.only_squid = cache is RenderedSquid and not apache
        if apache:
            self._programs.append(RenderedApache(root, ports["apache"], directory))
        self.haproxy = RenderedHAProxy(root, ports["http"], directory)
        self.url = f"http://{self.haproxy.host}:{self.haproxy.port}/"
        self._programs += [self._cache, self.haproxy]

    def start(self) -> None:
        """Start all the programs."""
        with ExitStack() as stack:
            for program in self._programs:
                stack.enter_context(program)
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Stop all the programs."""
        self._cache.kill()  # Squid stops slowly
        self._stack.close()

    def in_service(self) -> set[str]:
        """Return the names of the instances that HAProxy has in service."""
        names = list(self.instances)
        up = set()
        for row in haproxy.statistics(self.statistics):
            match = re.fullmatch(r"all-(\d)", row["svname"])
            # `UP 1/2` is still served: one more failure takes it out of service
            cached = row["pxname"].endswith("-cached")
            if match and not cached and row["status"].startswith("UP"):
                up.add(names[int(match[1]) - 1])
        return up


def rendered_site(
    instance: Instance,
    directory: Path,
    *,
    cache: str,
    apache: bool = False,
    site_keys: str = "",
) -> RenderedSite:
    """Render a site for this machine, and return its programs, to be started.

    :param instance: its configuration, on a database of PostgreSQL; its name is that of the site
    :param directory: a new one, for the files and for what the programs write
    """
    directory.mkdir()
    directory.chmod(0o755)
    # an operator writes it there
    configuration = instance.directory / instance.name / "all-in-one.conf"
    text = configuration.read_text()
    for option in ("anonymous-user", "anonymous-password"):
        text = re.sub(rf"(?m)^#?{option}=.*$", f"{option}=anon", text)
    configuration.write_text(text)
    text, ports = site_file(
        instance.name,
        cache=cache,
        apache=apache,
        configuration=instance.directory,
        postgresql=int(instance.database.options["db-port"]),
        site_keys=site_keys,
    )
    path = directory / "site.toml"
    path.write_text(text)
    output.write(render.render(load.load(path), drawing=False), directory / "out")
    return RenderedSite(directory / "out" / "all", instance.name, ports, directory / "running")
