"""The journal of a site: who changed what, when, on which host, and with what result.

A Markdown table in `journal.md`, beside the site file, one line for each intervention: it can be
kept in git, and joined there line by line (`journal.md merge=union` in `.gitattributes`).
"""

import fcntl
import os
import pwd
import socket
from datetime import datetime
from pathlib import Path

NAME = "journal.md"
_HEADER = """\
# Journal

Interventions on the site, the latest last. `cubicweb-ctl hasite-journal` adds one.

| when | who | on | what | result |
|---|---|---|---|---|
"""


def append(folder: Path, what: str, result: str) -> None:
    """Add a line, whole, whoever else adds one at the same time.

    :param folder: where the site file is
    :param what: what was done, such as a command with its arguments
    :raises OSError: the journal cannot be written to.
    """
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    cells = (when, _who(), socket.gethostname(), what, result)
    line = "| " + " | ".join(map(_cell, cells)) + " |\n"
    with (folder / NAME).open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released as it is closed
        if not os.fstat(file.fileno()).st_size:
            line = _HEADER + line
        file.write(line.encode())
        os.fsync(file.fileno())


def _who() -> str:
    """Return who is at the keyboard, were he another user meanwhile."""
    if "SUDO_USER" in os.environ:
        return os.environ["SUDO_USER"]
    try:
        return os.getlogin()
    except OSError:  # no terminal
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return str(os.getuid())


def _cell(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
