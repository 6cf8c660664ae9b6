"""An output folder: write a rendering to it as one, compare a rendering with what is there.

A rendering is a mapping from the path of each file in the folder, such as
`web1/etc/squid/squid.conf`, to its content and mode.
"""

import difflib
import grp
import hashlib
import os
import pwd
import re
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: lists the files of an output folder, in the format of `sha256sum --check`
MANIFEST = "MANIFEST"
#: the one file that depends on the version of a program, Graphviz
DRAWING = "architecture.svg"
# in each file
_DIGEST = re.compile(rb"(site file )[0-9a-f]{16}")


class RenderError(Exception):
    """Why nothing was written."""


@dataclass(frozen=True)
class File:
    """A rendered file."""

    content: bytes
    mode: int = 0o644


Rendering = dict[str, File]


def write(rendering: Rendering, folder: Path) -> int:
    """Make a folder hold a rendering: all of it, or nothing changes.

    Files that an earlier rendering left there are removed; others, such as `.git`, are kept.

    :return: how many files were added, changed or removed since the earlier rendering
    :raises RenderError: the folder cannot be written to, or holds something else.
    """
    try:
        old = _manifest(folder)
        if folder.is_dir() and not old and any(folder.iterdir()):
            raise RenderError(
                f"{folder} is not empty and was not made by hasite-render; give another folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        # all is written aside before anything there changes: a full disk changes nothing
        beside = folder if folder.is_dir() else folder.parent
        with tempfile.TemporaryDirectory(dir=beside, prefix=".hasite-") as staging:
            for path, file in _with_manifest(rendering).items():
                target = Path(staging, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.content)
                target.chmod(file.mode)
            for path in _with_manifest(rendering):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(staging, path), folder / path)
        for path in old.keys() - rendering.keys():
            _remove(folder, path)
        new = _manifest(folder)
        return sum(old.get(path) != new.get(path) for path in old.keys() | new.keys())
    except OSError as error:
        raise RenderError(f"{error.filename or folder}: {error.strerror}") from error


def _with_manifest(rendering: Rendering) -> Rendering:
    lines = (f"{_sha256(file.content)}  {path}" for path, file in rendering.items())
    return rendering | {MANIFEST: File("".join(f"{line}\n" for line in lines).encode())}


def _manifest(folder: Path) -> dict[str, str]:
    """Return the paths of the files that an earlier rendering has left, and their digests."""
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except FileNotFoundError:
        return {}
    digests = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    # whoever wrote it, nothing outside of the folder is removed
    return {
        path: digests[path] for path in digests if not path.startswith("/") and ".." not in path
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _remove(folder: Path, path: str) -> None:
    file = folder / path
    file.unlink(missing_ok=True)
    for parent in file.parents:
        if parent == folder or any(parent.iterdir()):
            break
        parent.rmdir()


def diff(rendering: Rendering, folder: Path, host: str | None = None) -> str:
    """Return how a folder differs from a rendering, as a unified diff.

    What differs by the digest of the site file alone is the same. The drawing, which need not be
    in the rendering, has to be as it was written.

    :param folder: an output folder; or the root of a host, where only its own files are compared
    :param host: name of that host; by default, if the folder is no output folder, this machine
    :raises RenderError: no host has that name, or the folder is not there.
    """
    if not folder.is_dir():
        raise RenderError(f"{folder} is no folder")
    present = _manifest(folder)
    if host is None and present:
        differences = [_difference(folder / path, file) for path, file in rendering.items()]
        for path in sorted(present.keys() - rendering.keys()):
            if path != DRAWING:
                differences.append(f"{folder / path}: is not rendered any more\n")
            elif not (folder / path).exists():
                differences.append(f"{folder / path}: is missing\n")
            elif _sha256((folder / path).read_bytes()) != present[path]:
                differences.append(f"{folder / path}: was edited\n")
        return "".join(differences)
    owner = folder.stat()  # on a host, the owner of /; of a copy, whoever made it
    host = host or socket.gethostname().partition(".")[0]
    hosts = list(dict.fromkeys(path.partition("/")[0] for path in rendering if "/" in path))
    if host not in hosts:
        raise RenderError(
            f"{host} is not a host of the site file; give one with --host: {', '.join(hosts)}"
        )
    return "".join(
        _owned_by_another(folder / path.removeprefix(f"{host}/"), owner)
        + _difference(folder / path.removeprefix(f"{host}/"), file)
        for path, file in rendering.items()
        if path.startswith(f"{host}/")
    )


def _owned_by_another(path: Path, owner: os.stat_result) -> str:
    """Return a line about a file that does not belong to the owner of its host's root."""
    try:
        present = path.stat()
    except OSError:
        return ""
    if (present.st_uid, present.st_gid) == (owner.st_uid, owner.st_gid):
        return ""
    return f"{path}: it belongs to {_names(present)}, it should be {_names(owner)}\n"


def _names(owned: os.stat_result) -> str:
    """Return the owner and the group of a file, by their names if they have any."""
    names = [str(owned.st_uid), str(owned.st_gid)]
    with suppress(KeyError):
        names[0] = pwd.getpwuid(owned.st_uid).pw_name
    with suppress(KeyError):
        names[1] = grp.getgrgid(owned.st_gid).gr_name
    return ":".join(names)


def _difference(path: Path, file: File) -> str:
    try:
        present = path.read_bytes()
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        return f"{path}: is missing\n"
    except OSError as error:
        return f"{path}: {error.strerror}\n"
    result = ""
    if mode != file.mode:
        result = f"{path}: its mode is {mode:04o}, it should be {file.mode:04o}\n"
    before, after = (_DIGEST.sub(rb"\1", content) for content in (present, file.content))
    if before != after:
        old, new = (
            content.decode(errors="replace").splitlines(True) for content in (before, after)
        )
        for line in difflib.unified_diff(old, new, str(path), f"{path} (rendered)"):
            result += line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
    return result
