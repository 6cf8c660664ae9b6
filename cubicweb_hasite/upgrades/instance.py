"""An instance with production's configuration that runs on the copy.

It reaches nothing of production: it sends no mail, purges no cache, and listens on loopback only.
"""

import http.client
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cubicweb_hasite.deploy import render
from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.deploy.site import Check
from cubicweb_hasite.upgrades import UpgradeError
from cubicweb_hasite.upgrades.programs import Programs, stop
from cubicweb_hasite.upgrades.server import Server

_START_SECONDS = 90
#: seconds between two visits while a migration runs
_INTERVAL = 0.2
#: seconds after which a visit has failed
_TIMEOUT = 60


@dataclass
class Visits:
    """The visits during a migration.

    :param slowest: duration of the slowest one in seconds
    :param failures: what was wrong, for each visit that failed
    """

    count: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


class RehearsalInstance:
    """An instance on the copy, with one version of the software.

    :param folder: its own folder, for its configuration, logs and run-time files
    :param virtualenv: the Python environment of this version
    :param database: name of the copy
    :param port: its port on 127.0.0.1; its management port is the next one
    """

    def __init__(
        self,
        site_file: SiteFile,
        name: str,
        folder: Path,
        virtualenv: Path,
        server: Server,
        database: str,
        port: int,
    ) -> None:
        self.site = site_file.site
        self.name = name
        self.folder = folder
        self.virtualenv = virtualenv
        self.port = port
        self._server = server
        self._database = database
        self._rendered = _rendered_options(site_file, name)

    def prepare(self, configuration: Path) -> None:
        """Make its folder again, with a copy of the configuration.

        :raises UpgradeError: the configuration cannot be read.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700, parents=True)  # the configuration holds secrets
        source = configuration / self.name
        try:
            shutil.copytree(source, self.folder / "etc" / self.name, symlinks=True)
        except (OSError, shutil.Error) as error:
            raise UpgradeError(
                f"the configuration {source} cannot be copied: {error}; copy the web servers' "
                "folder there, or give another folder in preproduction.configuration"
            ) from None
        for part in ["var", "run", "log"]:
            (self.folder / part).mkdir()

    @property
    def environ(self) -> dict[str, str]:
        """The environment of all its commands."""
        parameters = self._server.parameters
        extra = [
            f"{key}={value}"
            for key, value in parameters.items()
            if key in ("hostaddr", "sslmode", "passfile", "sslrootcert", "sslcert", "sslkey")
        ]
        return {
            **self._rendered,
            "PATH": f"{self.virtualenv / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONUNBUFFERED": "1",
            "CW_INSTANCES_DIR": str(self.folder / "etc"),
            "CW_INSTANCES_DATA_DIR": str(self.folder / "var"),
            "CW_RUNTIME_DIR": str(self.folder / "run"),
            "CW_LOG_FILE": str(self.folder / "log" / "cubicweb.log"),
            "CW_PID_FILE": str(self.folder / "run" / "pid"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "CW_PORT": str(self.port),
            "CW_BASE_URL": f"http://127.0.0.1:{self.port}/",
            "CW_HASITE_MANAGEMENT_HOST": "127.0.0.1",
            "CW_HASITE_MANAGEMENT_PORT": str(self.port + 1),
            "CW_HASITE_INSTANCE_NAME": "rehearsal",
            "CW_DB_DRIVER": "postgres",
            "CW_DB_HOST": parameters.get("host", ""),
            "CW_DB_PORT": parameters["port"],
            "CW_DB_NAME": self._database,
            "CW_DB_USER": parameters["user"],
            "CW_DB_EXTRA_ARGUMENTS": " ".join(extra),
            "CW_HASITE_STANDBY_HOSTS": "",
            # it sends nothing to anybody
            "CW_HASITE_PURGE_URLS": "",
            # nor does it change what a bucket has
            "CW_HASITE_S3_BUCKET": "",
            "AWS_S3_ENDPOINT_URL": "http://127.0.0.1:1",
            "CW_SMTP_HOST": "127.0.0.1",
            "CW_SMTP_PORT": "1",
        }

    def ctl(
        self, programs: Programs, *arguments: str, watch: Callable[[], None] | None = None
    ) -> str:
        """Run cubicweb-ctl and return its output.

        :param watch: called about 20 times a second until it ends
        :raises UpgradeError: it failed.
        """
        command = [str(self.virtualenv / "bin" / "cubicweb-ctl"), *arguments]
        return programs.run(command, environ=self.environ, folder=self.folder, watch=watch)

    @contextmanager
    def running(self, programs: Programs) -> Iterator[None]:
        """Run one process of it, in the same way as the systemd units of the web servers.

        :raises UpgradeError: it does not start.
        """
        gunicorn = self.virtualenv / "bin" / "gunicorn"
        if not gunicorn.exists():
            raise UpgradeError(f"{gunicorn} is missing: add gunicorn to the requirements")
        instances = self.site.instances
        command = [
            str(gunicorn),
            "--workers=1",
            "--worker-class=gthread",
            f"--threads={instances.threads}",
            f"--bind=127.0.0.1:{self.port}",
            f"--graceful-timeout={instances.graceful_seconds}",
            "--keep-alive=75",
            f'cubicweb_hasite.wsgi:application("{self.name}")',
        ]
        log = self.folder / "log" / "gunicorn.log"
        programs.note(f"$ {shlex.join(command)}")
        process = programs.start(command, environ=self.environ, folder=self.folder, log=log)
        try:
            self._wait(process, log)
            yield
        finally:
            stop(process)
            programs.note(f"output of {gunicorn}:\n{log.read_text(errors='replace')}")

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if self.get("/livez", management=True)[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        wrote = log.read_text(errors="replace")
        lines = [line for line in wrote.strip().splitlines() if line.strip()]
        reasons = [line for line in lines if "not started" in line or "Error" in line]
        why = (reasons or lines or [f"no response in {_START_SECONDS} s"])[-1]
        raise UpgradeError(f"the instance does not start: {why}", "\n".join(lines[-15:]))

    def get(self, path: str, *, management: bool = False) -> tuple[int, str]:
        """Return the status and the text of the response to a GET request.

        :param management: whether to ask on the management port
        :raises OSError: there is no response.
        """
        port = self.port + 1 if management else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
        headers = {} if management else {"Host": f"127.0.0.1:{self.port}"}
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"{path}: {error!r}") from None
        finally:
            connection.close()

    def versions(self) -> str:
        """Return the text of monitor_version.

        :raises OSError: there is no response.
        """
        return self.get("/view?vid=monitor_version", management=True)[1]

    def problems(self, *, old: bool = False) -> list[str]:
        """Run the monitors and the checks of the site file; return what is wrong.

        :param old: whether it is the running version: its versions differ from the database's
        """
        result = []
        for monitor in ["pool", "db", "version", "hostname"]:
            path = f"/view?vid=monitor_{monitor}"
            if not (old and monitor == "version"):
                result += self._problem(Check(path=path), management=True)
        result += self._problem(Check(path="/readyz"), management=True)
        return result + self.page_problems()

    def page_problems(self) -> list[str]:
        """Make the checks of the site file; return what is wrong."""
        return [problem for check in self.site.upgrade.checks for problem in self._problem(check)]

    def _problem(self, check: Check, *, management: bool = False) -> list[str]:
        try:
            status, text = self.get(check.path, management=management)
        except OSError as error:
            return [f"{check.path}: {error}"]
        if status != check.status:
            return [f"{check.path}: {status}, not {check.status}: {_beginning(text)}"]
        if check.text not in text:
            return [f"{check.path}: {check.text!r} is not in it: {_beginning(text)}"]
        return []

    @contextmanager
    def visited(self) -> Iterator[Visits]:
        """Visit its pages and ask monitor_db again and again while the block runs."""
        visits, end = Visits(), threading.Event()
        visitors: list[Callable[[], list[str]]] = [
            lambda: self._problem(Check(path="/view?vid=monitor_db"), management=True),
            *(lambda check=check: self._problem(check) for check in self.site.upgrade.checks),
        ]

        def run() -> None:
            while True:
                for visit in visitors:
                    start = time.monotonic()
                    visits.failures += visit()
                    visits.slowest = max(visits.slowest, time.monotonic() - start)
                    visits.count += 1
                    if end.wait(_INTERVAL):
                        return

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield visits
        finally:
            end.set()
            thread.join()


def _beginning(text: str) -> str:
    plain = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    return plain[:150] or "nothing"


def _rendered_options(site_file: SiteFile, name: str) -> Mapping[str, str]:
    """Return the options of production's instances, with secrets if this user may read them."""
    first = next(iter(site_file.site.web))
    rendering = render.render(site_file, drawing=False)
    text = rendering[f"{first}/etc/hasite/{name}.env"].content.decode()
    secrets = Path(f"/etc/hasite/secrets/{name}.env")
    if os.access(secrets, os.R_OK):
        text += secrets.read_text()
    options = dict(word.split("=", 1) for word in shlex.split(text, comments=True))
    # the copy has other passwords
    options.pop("PGPASSFILE", None)
    return options
