"""The text of versions, such as `cubicweb: 5.0.1 | file: 4.2.0`: written, read and compared here.

monitor_version writes it, `hasite-accept` takes it, the report of a rehearsal shows it.
"""

import re
from collections.abc import Iterable, Mapping

#: in the place of the version of a cube that is not there
UNKNOWN = "?"

_TEXT = re.compile(r"\w+: [\w.]+( \| \w+: [\w.]+)*")
_SAME = re.compile(r"ServiceOK : FS config (.*) == DB config \1")


def write(versions: Mapping[str, str], cubes: Iterable[str] = ()) -> str:
    """Return versions as a text: CubicWeb first, then the cubes in alphabetical order.

    :param cubes: cubes that are named even if they have no version
    """
    names = sorted({*versions, *cubes}, key=lambda cube: (cube != "cubicweb", cube))
    return " | ".join(f"{cube}: {versions.get(cube, UNKNOWN)}" for cube in names)


def parse(text: str) -> dict[str, str]:
    """Return the versions of a text, by the names of the cubes.

    :raises ValueError: the text has another format.
    """
    if not _TEXT.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a list of versions; write it as monitor_version does: "
            "cubicweb: 5.0.1 | file: 4.2.0"
        )
    return dict(part.split(": ") for part in text.split(" | "))


def monitor_text(installed: Mapping[str, str], database: Mapping[str, str]) -> str:
    """Return the text of monitor_version.

    :param installed: the versions of the packages on the disk
    :param database: the versions that the database was upgraded to
    """
    on_disk, in_database = write(installed, database), write(database, installed)
    if on_disk == in_database:
        return f"ServiceOK : FS config {on_disk} == DB config {in_database}"
    return f"ServiceKO : FS config {on_disk} != DB config {in_database}"


def from_monitor_text(text: str) -> str:
    """Return the versions in a text of monitor_version, the same on the disk and in the database.

    :raises ValueError: they are not the same, or the text is another one.
    """
    match = _SAME.fullmatch(text)
    if not match:
        raise ValueError(text)
    return match[1]


def is_on_the_way(
    database: Mapping[str, str], installed: Mapping[str, str], target: Mapping[str, str]
) -> bool:
    """Return whether a database is being upgraded from the installed versions to a target.

    A migration upgrades one cube after the other, script by script (`cubicweb.migration`): each
    cube has its installed version, the target version, or one in between. Versions are compared
    number by number, as CubicWeb does (`logilab.common.changelog.Version`).

    :raises ValueError: a version is not made of numbers.
    """
    return all(
        version == installed.get(cube)
        or (
            cube in target
            and _numbers(installed.get(cube, "0")) < _numbers(version) <= _numbers(target[cube])
        )
        for cube, version in database.items()
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
