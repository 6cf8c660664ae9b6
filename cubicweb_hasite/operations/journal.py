"""The journal of a site: who changed what, when, on which host, and the result.

It is a Markdown table in `journal.md`, beside the site file, with one line for each change. It can
be kept in git, which merges it line by line (`journal.md merge=union` in `.gitattributes`).
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
    """Add a line. Several processes may do so at the same time.

    :param folder: the folder of the site file
    :param what: what was done, such as a command with its arguments
    :param result: how it ended
    :raises OSError: the journal cannot be written to.
    """
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    cells = (when, _who(), socket.gethostname(), what, result)
    line = "| " + " | ".join(map(_cell, cells)) + " |\n"
    with (folder / NAME).open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        if not os.fstat(file.fileno()).st_size:
            line = _HEADER + line
        file.write(line.encode())
        os.fsync(file.fileno())


def _who() -> str:
    """Return the operator's login name, also after `sudo` or `su`."""
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
