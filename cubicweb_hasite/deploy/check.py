"""Check rendered files by the programs that will read them.

A file is wrong only if its program refuses it. If the program is not here, or something that it
needs, the file is not checked.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from cubicweb_hasite.deploy.checkers import CHECKERS
from cubicweb_hasite.deploy.output import MANIFEST
from cubicweb_hasite.deploy.programs import Host, NotChecked, Refused

Verdict = Literal["ok", "WRONG", "not checked"]


class CheckError(Exception):
    """Why nothing was checked."""


@dataclass(frozen=True)
class Result:
    """The result of the check of a file.

    :param detail: the program that checked it, or why none did, or the errors
    :param incomplete: whether a program that is not here would have checked it, or more of it
    """

    path: str
    verdict: Verdict
    detail: str
    incomplete: bool = False


def check(folder: Path) -> list[Result]:
    """Return the results for all files of an output folder.

    :raises CheckError: it is no output folder, or a rendered file is missing.
    """
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except OSError:
        raise CheckError(f"{folder} was not made by hasite-render") from None
    paths = [line[66:] for line in lines]
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing:
        raise CheckError(f"{folder}: missing: {', '.join(missing)}; render again")
    hosts: dict[str, list[str]] = {}
    for path in paths:
        if "/" in path:
            host, _, inside = path.partition("/")
            hosts.setdefault(host, []).append(inside)
    return [
        result for name, inside in hosts.items() for result in _check_host(folder, name, inside)
    ]


def _check_host(folder: Path, name: str, paths: list[str]) -> list[Result]:
    with _readable_by_all(), tempfile.TemporaryDirectory(prefix="hasite-") as temporary:
        Path(temporary).chmod(0o755)
        scratch, root = Path(temporary, "scratch"), Path(temporary, "root")
        scratch.mkdir()
        scratch.chmod(0o777)
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name / path, root / path)
            (root / path).chmod((root / path).stat().st_mode | 0o444)
        return [_result(f"{name}/{path}", root / path, Host(root, scratch)) for path in paths]


@contextmanager
def _readable_by_all() -> Iterator[None]:
    """Let other users read the files made here, since some programs run as another user."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def _result(name: str, path: Path, host: Host) -> Result:
    inside = str(path.relative_to(host.root))
    checker = next(checker for pattern, checker in CHECKERS if fnmatch(inside, pattern))
    if isinstance(checker, str):
        return Result(name, "not checked", checker)
    try:
        detail = checker(host, path)
        return Result(name, "ok", detail, incomplete=bool(host.missing))
    except NotChecked as error:
        return Result(name, "not checked", str(error), incomplete=True)
    except Refused as error:
        return Result(name, "WRONG", str(error))
    except UnicodeDecodeError:
        return Result(name, "WRONG", "it is not in UTF-8")


def table(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the table of results, and a summary."""
    width = max(len(result.path) for result in results)
    for result in results:
        first, *others = result.detail.splitlines() or [""]
        yield f"{result.verdict:<11}  {result.path:<{width}}  {first}"
        yield from (" " * (width + 15) + line for line in others)
    counts = {
        verdict: sum(result.verdict == verdict for result in results)
        for verdict in ("ok", "WRONG", "not checked")
    }
    yield f"{counts['ok']} ok, {counts['WRONG']} wrong, {counts['not checked']} not checked"


def failed(results: list[Result], *, strict: bool) -> bool:
    """Return whether a file is wrong or, if `strict`, a check is incomplete."""
    return any(result.verdict == "WRONG" or (strict and result.incomplete) for result in results)
