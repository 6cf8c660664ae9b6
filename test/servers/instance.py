"""A CubicWeb instance, and the processes that serve it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import requests

from servers.postgresql import Database
from servers.support import Server, ServerProcess, free_port

CUBICWEB_CTL = str(Path(sys.executable).with_name("cubicweb-ctl"))
#: gunicorn as docs/operate.md has it, but for the port and the application
GUNICORN = [
    *(str(Path(sys.executable).with_name("gunicorn")), "--workers=1", "--worker-class=gthread"),
    "--keep-alive=75",
]
#: uWSGI, which reads the configuration that docs/uwsgi.md has
UWSGI = str(Path(sys.executable).with_name("uwsgi"))
_DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "uwsgi.md"


def uwsgi_configuration() -> str:
    """Return the `uwsgi.ini` of docs/uwsgi.md, which takes port and instance from `CW_` variables.

    :raises ValueError: the document has none, or several.
    """
    [block] = re.findall(
        r"^```ini\n(\[uwsgi\]\n.*?)^```$", _DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    return block


def application(name: str) -> str:
    """Return the application of the instance `name`, as gunicorn's argument."""
    return f'cubicweb_hasite.wsgi:application("{name}")'


class Instance:
    """An instance of CubicWeb: one configuration directory, one database, any number of processes.

    The manager's login and password are `admin`.

    :param directory: a directory for its configuration and its data
    :param cubes: names of its cubes, without `cubicweb_`
    :param database: its database, empty
    :param anonymous: whether one may visit without logging in
    :param options: options of the instance, by their names in its configuration file
    :param rest_html: whether the pages of entities are those of CubicWeb's REST API. In the
        `pyramid.ini` that CubicWeb writes they are, with the advice to disable them where
        cubicweb_web is used, since they hide its pages, edition forms included.
    """

    name = "site"

    def __init__(
        self,
        directory: Path,
        cubes: list[str],
        database: Database,
        *,
        anonymous: bool = True,
        options: dict[str, object] | None = None,
        rest_html: bool = False,
    ) -> None:
        self.directory = directory
        #: cubicweb-ctl of the version that it runs
        self.ctl_path = CUBICWEB_CTL
        self.rest_html = rest_html
        self.cubes = cubes
        self.database = database
        self.options: dict[str, object] = {
            **database.options,
            # nobody listens there: mail is refused at once
            "smtp-host": "127.0.0.1",
            "smtp-port": 1,
            **(options or {}),
        }
        if anonymous:
            self.options |= {"anonymous-user": "anon", "anonymous-password": "anon"}

    def environ(self, options: dict[str, object] | None = None) -> dict[str, str]:
        """Return the environment of the instance's commands.

        :param options: options that override the instance's
        """
        # CubicWeb refuses requests to other URLs than its own where it finds itself under pytest
        ours = ("CW_", "PYTEST_")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        environ["PYTHONUNBUFFERED"] = "1"  # requests are logged with `print`
        for variable in ("CW_INSTANCES_DIR", "CW_INSTANCES_DATA_DIR", "CW_RUNTIME_DIR"):
            environ[variable] = str(self.directory)
        for option, value in {**self.options, **(options or {})}.items():
            environ["CW_" + option.replace("-", "_").upper()] = str(value)
        return environ

    def ctl(self, *args: str, script: str = "") -> str:
        """Run `cubicweb-ctl` and return what it wrote.

        :param script: what it reads
        :raises RuntimeError: it failed.
        """
        result = subprocess.run(
            [self.ctl_path, *args],
            env=self.environ(),
            cwd=self.directory,
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        # some of its failures are told in the text alone
        failed = result.returncode or "not completed" in result.stdout
        if failed or (script and "Traceback" in result.stdout):
            raise RuntimeError(f"cubicweb-ctl {' '.join(args)} failed:\n{result.stdout}")
        return result.stdout

    def shell(self, script: str) -> str:
        """Run a script in `cubicweb-ctl shell` and return what it wrote.

        :raises RuntimeError: it failed.
        """
        return self.ctl("shell", self.name, script=script)

    def configure(self) -> None:
        """Write the configuration of the instance, whose database is left as it is.

        :raises RuntimeError: `cubicweb-ctl` failed.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ctl("create", "--automatic", "--no-db-create", ",".join(self.cubes), self.name)
        # the password was drawn at random
        sources = self.directory / self.name / "sources"
        sources.write_text(
            re.sub(r"(?m)^password=.*$", "password=admin", sources.read_text(), count=1)
        )
        if not self.rest_html:
            ini = self.directory / self.name / "pyramid.ini"
            ini.write_text(re.sub(r"(?m)^ .*rest_api\.include_html\n", "", ini.read_text()))

    def create(self) -> None:
        """Create the instance, and fill its database.

        :raises RuntimeError: `cubicweb-ctl` failed.
        """
        self.configure()
        self.ctl("db-create", "--automatic", "--create-db=n", self.name)

    def uwsgi(self) -> list[str]:
        """Return the command that starts uWSGI, which reads `CW_INSTANCE` and `CW_PORT`."""
        path = self.directory / "uwsgi.ini"
        path.write_text(uwsgi_configuration())
        return [UWSGI, f"--ini={path}"]

    def process(
        self,
        port: int | None = None,
        *,
        base_url: str | None = None,
        threads: int = 4,
        gunicorn: bool = False,
        uwsgi: bool = False,
        **options: object,
    ) -> "Process":
        """Return a new process of the instance, to be started.

        :param port: TCP port, by default a free one
        :param base_url: where visitors reach the site, with a final `/`; by default the process
            itself. It must be the same in all the processes of a site.
        :param threads: how many requests it serves at once
        :param gunicorn: whether gunicorn runs it, as in production, and not `cubicweb-ctl start`
        :param uwsgi: whether uWSGI runs it, which is the other server for production
        :param options: options that this process overrides, with `_` for `-`; `runtime_dir` too,
            for those that are on other hosts in production
        """
        port = port or free_port()
        if gunicorn:
            bind = f"--bind=127.0.0.1:{port}"
            command = [*GUNICORN, bind, f"--threads={threads}", application(self.name)]
        elif uwsgi:
            command = [*self.uwsgi(), f"--threads={threads}"]
            options["instance"] = self.name
        else:
            command = [CUBICWEB_CTL, "start", f"--nb-threads={threads}", self.name]
        return Process(self, command, port, base_url, options)


class Process(ServerProcess, Server):
    """One process of an instance."""

    def __init__(
        self,
        instance: Instance,
        command: list[str],
        port: int,
        base_url: str | None,
        options: dict[str, object],
    ) -> None:
        self.port = port
        #: the process itself, whatever is in front of it
        self.url = f"http://127.0.0.1:{port}/"
        self.base_url = base_url or self.url
        self._instance = instance
        self._options = {name.replace("_", "-"): value for name, value in options.items()}
        super().__init__(command, instance.directory / f"{port}.log")

    def start(self, *, timeout: float = 60) -> None:
        """Start the process and wait until it answers.

        :raises RuntimeError: it ended.
        :raises TimeoutError: it does not answer in time.
        """
        own = {
            "port": self.port,
            "base-url": self.base_url,
            "pid-file": self.log_path.with_suffix(".pid"),
        }
        self.env = self._instance.environ({**own, **self._options})
        self.spawn(self.answers, timeout=timeout)

    def answers(self) -> bool:
        """Return whether the process answers a request, were it with an error."""
        try:
            requests.get(f"{self.url}login", timeout=5, allow_redirects=False)
        except requests.RequestException:
            return False
        return True
