"""Take an instance out of service gently: `/readyz` says so, and balancers send no more visitors.

All the processes of an instance on a host are drained together, by two files in the directory
where CubicWeb keeps its pid files: a flag, which is there while they are to be drained, and a file
that they share a lock of while requests are in flight, so that one can wait for the last of them.
The kernel releases the lock of a process that dies.

A flag concerns the processes that run when it is set, and none that starts later: no instance is
out of service after a restart because of a flag that was forgotten.
"""

import fcntl
import logging
import os
import threading
import time
from pathlib import Path

from cubicweb.cwconfig import CubicWebConfiguration

log = logging.getLogger(__name__)

# which flag was there when this process started: what tells it from a flag set since
_at_start: dict[Path, tuple[int, int]] = {}


def flag_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the file that is there while the instance is being drained."""
    # of the default: the option may differ from process to process
    return Path(config.default_pid_file()).with_name(f"{config.appid}.draining")


def requests_path(config: CubicWebConfiguration) -> Path:
    """Return the path of the file that processes share a lock of while they serve requests."""
    return flag_path(config).with_suffix(".requests")


def is_draining(config: CubicWebConfiguration) -> bool:
    """Return whether this process of the instance is being drained. Never raises."""
    path = flag_path(config)
    return _identity(path) not in (None, _at_start.get(path))


def set_draining(config: CubicWebConfiguration, draining: bool) -> None:
    """Begin or end to drain the processes of the instance that run on this host.

    :raises OSError: the directory cannot be written to.
    """
    path = flag_path(config)
    if draining:
        path.parent.mkdir(parents=True, exist_ok=True)
        # always another file, for the processes that have started since an earlier one
        new = path.with_suffix(".draining-new")
        new.touch()
        new.replace(path)
    else:
        path.unlink(missing_ok=True)


def start(config: CubicWebConfiguration) -> None:
    """Let this process take part: it is in service now, and will say when it serves requests."""
    path = flag_path(config)
    if (identity := _identity(path)) is not None:
        _at_start[path] = identity
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        requests_path(config).touch()
    except OSError as error:
        log.warning("hasite-drain --wait cannot wait for this process: %s", error)


class InFlight:
    """A context manager to serve a request in, which tells :func:`wait` of it."""

    def __init__(self, config: CubicWebConfiguration):
        self._path = requests_path(config)
        self._lock = threading.Lock()
        self._count = 0
        self._fd: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._fd is None:
                self._fd = self._open()

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._count -= 1
            if self._fd is not None:
                os.utime(self._fd)  # when the last request ended
                if not self._count:
                    os.close(self._fd)
                    self._fd = None

    def _open(self) -> int | None:
        try:
            fd = os.open(self._path, os.O_RDWR)
        except OSError:  # which `start` has told
            return None
        for _ in range(50):
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # `wait` has it to itself for an instant
                time.sleep(0.001)
        return fd


def wait(config: CubicWebConfiguration, quiet: float, timeout: float) -> None:
    """Wait until no process of the instance on this host serves requests any more.

    :param quiet: for how many seconds none must have been served, since the flag was set
    :param timeout: for how long to wait, in seconds
    :raises OSError: the processes are not known of, such as when none has run here.
    :raises TimeoutError: requests are still served.
    """
    flag = flag_path(config).stat().st_mtime
    deadline = time.monotonic() + timeout
    with requests_path(config).open() as file:
        while not _is_quiet(file.fileno(), flag, quiet):
            if time.monotonic() > deadline:
                raise TimeoutError(f"requests are still served after {timeout:g} seconds")
            time.sleep(0.1)


def _is_quiet(fd: int, flag: float, quiet: float) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return time.time() - max(os.fstat(fd).st_mtime, flag) >= quiet


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns
