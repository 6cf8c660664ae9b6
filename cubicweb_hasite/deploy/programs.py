"""Run the programs that read rendered files, and tell errors of a file from those of this machine.

A program may refuse a file for a reason that is not in the file: a user, a folder or a package is
missing here, or the machine has no name. So a program that refuses a file is given another one
that is right on any machine. What it says about that one too is not an error of the file. If it
refuses that one too, the file is not checked.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_TIMEOUT = 60
_LINES = 20
#: number of the user and of the group without rights, nobody and nogroup on Debian
NOBODY = 65534
#: folders of programs that may be missing in the PATH of users other than root
FOLDERS = ["/usr/local/sbin", "/usr/sbin", "/sbin"]


class NotChecked(Exception):
    """Why a file could not be checked on this machine."""


class NotInstalled(NotChecked):
    """A program, or something that it needs, is not here."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed here")


class Refused(Exception):
    """The errors that a program finds in a file."""


@dataclass(frozen=True)
class Answer:
    """The answer of a program about a file.

    :param refused: whether its exit status was not 0
    :param lines: the errors that it prints
    """

    refused: bool
    lines: list[str]


@dataclass(frozen=True)
class Host:
    """The files of one host.

    :param root: a copy of them that all users can read, to which files may be added
    :param scratch: a folder that all users can write to
    :param missing: the programs that are not installed here and would have checked more
    """

    root: Path
    scratch: Path
    missing: list[str] = field(default_factory=list)

    def copy(self, path: Path, text: str) -> Path:
        """Return a copy of a file with another text, at the same path in another folder."""
        return write(self.scratch / "copies" / path.relative_to(self.root), text)

    def find(self, program: str) -> str:
        """Return the path of a program.

        :raises NotInstalled: it is not here.
        """
        path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))
        if path is None:
            self.missing.append(program)
            raise NotInstalled(program)
        return path

    def run(
        self,
        program: str,
        *args: str | Path,
        user: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run a program, and return all that it prints.

        :param user: number of the user and of the group that run it
        :param env: variables, added to those of this process
        :raises NotInstalled: it is not here.
        :raises NotChecked: it does not run here, or does not end.
        """
        command = [self.find(program), *map(str, args)]
        try:
            process = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.scratch,
                env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
                user=user,
                group=user,
                extra_groups=[] if user else None,
                timeout=_TIMEOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise NotChecked(f"{program} did not end within {_TIMEOUT} s") from None
        except OSError as error:
            raise NotChecked(f"{program} does not run here: {error.strerror}") from None
        if process.returncode < 0:
            raise NotChecked(f"{program} was ended by signal {-process.returncode}")
        output = process.stdout
        for folder in (self.root, self.scratch / "copies"):
            output = output.replace(f"{folder}/", "/")
        lines = [line for line in output.splitlines() if line.strip()]
        if process.returncode and not lines:
            lines = [f"{program} ended with status {process.returncode}"]
        return Answer(bool(process.returncode), lines)


def examine(ask: Callable[[_T], Answer], file: _T, right: Callable[[], _T]) -> None:
    """Let a program read a file.

    :param ask: gives it a file
    :param right: makes a file in the same format that is right on any machine
    :raises Refused: it refuses the file.
    :raises NotChecked: it refuses the right file too.
    """
    answer = ask(file)
    if not answer.refused and not answer.lines:
        return
    usual = ask(right())
    if usual.refused:
        raise NotChecked("a file that is right is refused here too: " + _end(usual.lines))
    wrong = [line for line in answer.lines if line not in usual.lines]
    if wrong or answer.refused:
        raise Refused(_end(wrong or answer.lines))


def _end(lines: list[str]) -> str:
    """Return the last lines: Varnish prints all the C that it compiles before the error."""
    return "\n".join(lines[-_LINES:])


def write(path: Path, text: str) -> Path:
    """Write a file, and its folder if it is not there; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def examine_file(host: Host, path: Path, ask: Callable[[Path], Answer], right: str = "") -> None:
    """Examine a file; the right one is a text, which gets the same name."""
    examine(ask, path, lambda: write(host.scratch / "right" / path.name, right))


def accepts(
    host: Host, program: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Callable[[Path], Answer]:
    """Return a function that gives a program a file. Its errors count if its status is not 0."""

    def ask(file: Path) -> Answer:
        answer = host.run(program, *arguments, file, env=env)
        return Answer(answer.refused, answer.lines if answer.refused else [])

    return ask
