"""The journal of a site: who changed what, when, on which host, and the result.

It is a Markdown table in `journal.md`, beside the site file, with one line for each change. It can
be kept in git, which merges it line by line (`journal.md merge=union` in `.gitattributes`).
"""

import fcntl
import os
import pwd
import re
import socket
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

NAME = "journal.md"
_HEADER = """\
# Journal

Interventions on the site, the latest last. `cubicweb-ctl hasite-journal` adds one.

| when | who | on | what | result |
|---|---|---|---|---|
"""
#: how much of the end of a journal is read, in bytes
_READ = 100_000
# a cell as `_cell` writes it, before its end
_CELL = re.compile(r"((?:\\.|[^|\\])*)\|")


class Entry(NamedTuple):
    """A line of a journal."""

    when: str
    who: str
    host: str
    what: str
    result: str


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


def latest(folder: Path, patterns: dict[str, str]) -> dict[str, Entry]:
    """Return the latest lines that tell of something, those of them that there are.

    Never raises: without a journal that can be read there is none.

    :param folder: the folder of the journal
    :param patterns: regular expressions that are looked for in what was done, by any key
    """
    found = {}
    for line in _last_lines(folder / NAME):
        cells = [_read_cell(cell) for cell in _CELL.findall(line.strip().removeprefix("|"))]
        if len(cells) != len(Entry._fields):
            continue
        entry = Entry(*cells)
        for key, pattern in patterns.items():
            if re.search(pattern, entry.what, re.IGNORECASE):
                found[key] = entry
    return found


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - _READ, 0))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _read_cell(cell: str) -> str:
    """Return the text that :func:`_cell` has written."""
    return re.sub(r"\\(.)", r"\1", cell).strip()


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
