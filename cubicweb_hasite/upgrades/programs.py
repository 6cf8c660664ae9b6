"""Run the programs of a rehearsal: everything they write is logged, and none outlives it."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from cubicweb_hasite.upgrades import RehearsalError

#: lines of what a program wrote last that are shown with an error
_CONTEXT = 15


class Programs:
    """Runs programs, one after the other or in the background.

    :param log: file to which all that they write is appended
    """

    def __init__(self, log: Path) -> None:
        self._log = log

    def note(self, text: str) -> None:
        """Append a line of ours to the log."""
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        with self._log.open("a") as log:
            log.write(f"{now} {text}\n")

    def run(
        self,
        command: list[str],
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        watch: Callable[[], None] | None = None,
    ) -> str:
        """Run a program to its end and return what it wrote.

        :param environ: variables that are added to ours, which lead nowhere: CubicWeb's and
            libpq's are left out
        :param watch: called every so often meanwhile
        :raises Failed: its status is not 0.
        """
        self.note(f"$ {shlex.join(command)}")
        start = self.position()
        with self.start(command, environ=environ, folder=folder) as process:
            try:
                while process.poll() is None:
                    if watch:
                        watch()
                    time.sleep(0.05)
            except BaseException:
                stop(process)
                raise
        output = self.since(start)
        if process.returncode:
            raise Failed(command, process.returncode, output)
        return output

    def position(self) -> int:
        """Return the size of the log."""
        return self._log.stat().st_size

    def since(self, position: int) -> str:
        """Return what was logged since the log had a size."""
        with self._log.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def start(
        self,
        command: list[str],
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        log: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the background.

        :param log: where it writes, by default the common log
        :raises RehearsalError: there is no such program.
        """
        # one that is called from another thread would end with that thread
        assert threading.current_thread() is threading.main_thread()
        if shutil.which(command[0]) is None:
            raise RehearsalError(f"{command[0]} is missing on this machine")
        with (log or self._log).open("ab") as output:
            return subprocess.Popen(
                # whatever ends us ends them
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=clean_environ() | dict(environ or {}),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Failed(RehearsalError):
    """A program that failed, with the end of what it wrote."""

    def __init__(self, command: list[str], status: int, output: str) -> None:
        lines = output.strip().splitlines()
        # PostgreSQL's programs tell first what is wrong, then what comes of it; Python at the end
        first = [line for line in lines if re.match(r"(pg_\w+|psql)\b.*error: ", line, re.I)]
        errors = [line for line in lines if re.search(r"error|fatal", line, re.I)]
        reason = (first[:1] or errors or lines or ["it wrote nothing"])[-1].strip()
        how = f"status {status}" if status > 0 else f"signal {-status}"
        name = Path(command[0]).name
        details = "\n".join(lines[-_CONTEXT:])
        super().__init__(f"{name} failed ({how}): {reason}", details)


def clean_environ() -> dict[str, str]:
    """Return our environment without what would lead CubicWeb or libpq elsewhere."""
    kept = ("PGPASSFILE", "PGPASSWORD", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY")
    return {
        key: value
        for key, value in os.environ.items()
        if key in kept or not key.startswith(("CW_", "PG", "PYTEST_", "VIRTUAL_ENV"))
    }


def stop(process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """End a program gently, and at last by force."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
