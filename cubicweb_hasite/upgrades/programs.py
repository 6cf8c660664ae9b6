"""Run the programs of a rehearsal: their output is logged, and they end with the rehearsal."""

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

from cubicweb_hasite.upgrades import UpgradeError

#: last lines of a program's output that are shown with an error
_CONTEXT = 15


class Programs:
    """Runs programs, one after the other or in the background.

    :param log: file to which their output is appended
    """

    def __init__(self, log: Path) -> None:
        self._log = log

    def note(self, text: str) -> None:
        """Append a line of our own to the log."""
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._append(f"{now} {text}\n")

    def _append(self, text: str) -> None:
        with self._log.open("a") as log:
            log.write(text)

    def run(
        self,
        command: list[str],
        *,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        watch: Callable[[], None] | None = None,
        redact: Callable[[str], str | None] | None = None,
    ) -> str:
        """Run a program to its end and return its output.

        :param environ: variables added to our environment, from which those of CubicWeb and libpq
            are removed
        :param watch: called about 20 times a second until the program ends
        :param redact: returns what may be logged of a line of the output, None for nothing; the
            rest is written nowhere
        :raises Failed: the program's status is not 0.
        :raises UpgradeError: the program is not installed.
        """
        self.note(f"$ {shlex.join(command)}")
        start = self.position()
        output = subprocess.PIPE if redact else None
        with self.start(command, environ=environ, folder=folder, output=output) as process:
            lines = _Lines(process) if redact else None
            try:
                while True:
                    ended = process.poll() is not None
                    if lines and redact:
                        kept = filter(None, map(redact, lines.read(to_the_end=ended)))
                        self._append("".join(f"{line}\n" for line in kept))
                    if ended:
                        break
                    if watch:
                        watch()
                    time.sleep(0.05)
            except BaseException:
                stop(process)
                raise
        written = self.since(start)
        if process.returncode:
            raise Failed(command, process.returncode, written)
        return written

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
        output: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the background.

        :param log: where it writes, by default the common log
        :param output: `subprocess.PIPE` to read its output instead
        :raises UpgradeError: the program is not installed.
        """
        # PR_SET_PDEATHSIG (prctl(2)) is about the thread that starts a program, not the process
        assert threading.current_thread() is threading.main_thread()
        if shutil.which(command[0]) is None:
            raise UpgradeError(f"{command[0]} is missing on this machine")
        with (log or self._log).open("ab") as file:
            return subprocess.Popen(
                # the program ends with us, even if we are killed
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=clean_environ() | dict(environ or {}),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file if output is None else output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class _Lines:
    """The lines of a program's output, as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._fd = process.stdout.fileno()
        os.set_blocking(self._fd, False)
        self._rest = b""

    def read(self, *, to_the_end: bool) -> list[str]:
        """Return the lines written since the last call.

        :param to_the_end: whether the program has ended, so that the last line is whole
        """
        try:
            while chunk := os.read(self._fd, 65536):
                self._rest += chunk
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\n")
        if to_the_end:
            lines.append(self._rest)
        return [line.decode(errors="replace") for line in lines]


class Failed(UpgradeError):
    """A program that failed, with the end of its output."""

    def __init__(self, command: list[str], status: int, output: str) -> None:
        lines = output.strip().splitlines()
        # PostgreSQL's programs write the cause first, Python writes it last
        first = [line for line in lines if re.match(r"(pg_\w+|psql)\b.*error: ", line, re.I)]
        errors = [line for line in lines if re.search(r"error|fatal", line, re.I)]
        reason = (first[:1] or errors or lines or ["it wrote nothing"])[-1].strip()
        how = f"status {status}" if status > 0 else f"signal {-status}"
        name = Path(command[0]).name
        details = "\n".join(lines[-_CONTEXT:])
        super().__init__(f"{name} failed ({how}): {reason}", details)


def clean_environ() -> dict[str, str]:
    """Return our environment without what would lead CubicWeb or libpq to other servers."""
    kept = ["PGPASSFILE", "PGPASSWORD", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"]
    return {
        key: value
        for key, value in os.environ.items()
        if key in kept or not key.startswith(("CW_", "PG", "PYTEST_", "VIRTUAL_ENV"))
    }


def stop(process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """End a program.

    :param seconds: time after SIGTERM until it is killed
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
