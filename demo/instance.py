"""The demonstration instance: where it lives, how it is created and upgraded."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAME = "demo"
LOGIN = PASSWORD = "admin"


class DemoError(Exception):
    """What the user is told: what is wrong and what to do, in one line."""


@dataclass(frozen=True)
class Instance:
    """A CubicWeb instance on SQLite, all of it in the directory `var`."""

    var: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    @property
    def site(self) -> Path:
        """What makes the instance: its configuration, its database, its caches."""
        return self.var / "site"

    @property
    def log(self) -> Path:
        """What CubicWeb writes, which is too much for a console."""
        return self.var / "log" / "demo.log"

    @property
    def database(self) -> Path:
        return self.site / "demo.sqlite"

    def environment(self, site: Path | None = None) -> dict[str, str]:
        """Return the environment in which CubicWeb finds the instance.

        It says all that depends on the place or on the port: the files of the instance do not,
        so that they may be moved, or served on another port.
        """
        site = site or self.site
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("CW_")}
        return inherited | {
            "CW_MODE": "user",
            "CW_INSTANCES_DIR": str(site / "etc"),
            "CW_INSTANCES_DATA_DIR": str(site / "data"),
            "CW_RUNTIME_DIR": str(self.var / "run"),
            "CW_PID_FILE": str(self.var / "run" / "demo.pid"),
            "CW_LOG_FILE": str(self.log),
            "CW_DB_DRIVER": "sqlite",
            "CW_DB_NAME": str(site / self.database.name),
            "CW_LOGIN": LOGIN,
            "CW_PASSWORD": PASSWORD,
            "CW_ANONYMOUS_USER": "anon",
            "CW_ANONYMOUS_PASSWORD": "anon",
            "CW_BASE_URL": self.url,
            "CW_PORT": str(self.port),
            "CW_IMAGE_THUMB_SIZE": "240x160",
        }

    def create(self) -> None:
        """Create the instance: aside, then in its place, so that it is there whole or not."""
        for left in self.var.glob("new-*"):  # by a run that was interrupted
            shutil.rmtree(left, ignore_errors=True)
        # A name of its own: what a killed run had started may still be writing in another.
        aside = Path(tempfile.mkdtemp(prefix="new-", dir=self.var))
        for directory in ("etc", "data"):
            (aside / directory).mkdir()
        try:
            done = self._ctl("create", "--automatic", "hasite,file", NAME, site=aside)
            if not done or not (aside / self.database.name).exists():
                raise DemoError(f"the instance could not be created: see {self.log}")
            _without_rest_pages(aside / "etc" / NAME / "pyramid.ini")
            aside.rename(self.site)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def upgrade(self) -> bool:
        """Upgrade the instance if it was made by older versions; return whether it was."""
        backup = self.database.with_suffix(".before-upgrade")
        if backup.exists():  # the upgrade was interrupted
            backup.replace(self.database)
        if not self._is_outdated():
            return False
        copy = self.database.with_suffix(".copy")
        shutil.copy(self.database, copy)
        copy.rename(backup)
        try:
            done = self._ctl("upgrade", "--force", "--backup-db=n", "--verbosity=0", NAME)
            if not done or self._is_outdated():
                raise DemoError(
                    f"{self.var} was made by an older version and could not be upgraded "
                    f"(see {self.log}): move it away to begin afresh"
                )
        except BaseException:
            backup.replace(self.database)
            raise
        backup.unlink()
        return True

    def _is_outdated(self) -> bool:
        from cubicweb.cwconfig import CubicWebConfiguration  # it needs the environment
        from logilab.common.changelog import Version

        with sqlite3.connect(self.database) as connection:
            rows = connection.execute(
                "SELECT cw_pkey, cw_value FROM cw_CWProperty WHERE cw_pkey LIKE 'system.version.%'"
            ).fetchall()
        connection.close()
        outdated = False
        for key, value in rows:
            name, stored = key.removeprefix("system.version."), Version(value)
            if name == "cubicweb":
                installed = CubicWebConfiguration.cubicweb_version()
            else:
                installed = CubicWebConfiguration.cube_version(name)
            if stored > installed:
                raise DemoError(
                    f"{self.var} was made by a newer version ({name} {stored}; {installed} is "
                    "installed): move it away to begin afresh"
                )
            outdated |= stored < installed
        return outdated

    def _ctl(self, *arguments: str, site: Path | None = None) -> bool:
        """Run cubicweb-ctl; return whether it did not fail, which it may do without saying so."""
        with self.log.open("ab") as log:
            return not subprocess.run(
                [Path(sys.executable).with_name("cubicweb-ctl"), *arguments],
                env=self.environment(site),
                stdin=subprocess.DEVNULL,  # it must not ask anything
                stdout=log,
                stderr=log,
            ).returncode


def _without_rest_pages(settings: Path) -> None:
    """Leave out CubicWeb's experimental pages, which hide the page that shows a picture."""
    lines = settings.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.strip() != "cubicweb.pyramid.rest_api.include_html"]
    settings.write_text("".join(kept))
