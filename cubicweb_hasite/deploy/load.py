"""Read a site file, and say line by line what is wrong in it."""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cubicweb_hasite.deploy import rules
from cubicweb_hasite.deploy.site import Key, Section, Site


class SiteError(Exception):
    """What is wrong in a site file: one line for each error, each naming its line and key."""


@dataclass(frozen=True)
class SiteFile:
    """A site file that is right: what it says, and the digest of its bytes."""

    path: Path
    site: Site
    digest: str


def load(path: Path) -> SiteFile:
    """Read a site file.

    :raises SiteError: it cannot be read, or is wrong.
    """
    try:
        content = path.read_bytes()
        text = content.decode()
        data = tomllib.loads(text)
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SiteError(f"{path}: it is not in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SiteError(f"{path}: it is not TOML: {error}") from None
    try:
        site = Site.model_validate(data)
        problems = list(rules.problems(site, path.parent))
    except ValidationError as error:
        problems = [_explain(details) for details in error.errors()]
    if problems:
        located = ((_line(text, key), key, message) for key, message in problems)
        raise SiteError(
            "\n".join(
                f"{path}:{line}: {'.'.join(map(str, key))}: {message}"
                for line, key, message in sorted(located, key=itemgetter(0))
            )
        )
    return SiteFile(path, site, hashlib.sha256(content).hexdigest()[:16])


def _explain(details: Any) -> tuple[Key, str]:
    """Return the key and the message of an error of pydantic: what is wrong, what is right."""
    key = tuple(part for part in details["loc"] if part not in ("[key]", "int", "str"))
    section, field = _field(key)
    description = field.description if field else None
    if not description and section:
        description = section.__doc__
    about = f" ({' '.join(description.split())})" if description else ""
    match details["type"]:
        case "missing":
            return key, f"it is missing{about}"
        case "extra_forbidden":
            known = sorted(section.model_fields) if section else []
            near = difflib.get_close_matches(str(key[-1]), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(known)}"
            return key, f"there is no such key; {hint}"
        case "value_error":
            return key, f"{details['ctx']['error']}{about}"
        case "string_pattern_mismatch":
            return key, f"{details['input']!r} has the wrong format{about}"
        case _:
            message = re.sub("^(Input|List|String|Dictionary) should", "it should", details["msg"])
            return key, f"{message}; it is {details['input']!r}{about}"


def _field(key: Key) -> tuple[type[Section] | None, Any]:
    """Return the section of a key, and its field if there is one."""
    section: type[Section] | None = Site
    field: Any = None
    for part in key:
        if section is None or isinstance(part, int):
            break
        field = section.model_fields.get(part)
        if field is None:
            break
        section_of_field = next(iter(sections(field.annotation)), None)
        if section_of_field is None:
            break
        table_of_tables = str(field.annotation).startswith("dict")
        if table_of_tables:
            rest = key[2:]
            if not rest:
                return section_of_field, None
            return section_of_field, section_of_field.model_fields.get(str(rest[0]))
        section = section_of_field
    return section, field


def sections(annotation: Any) -> Iterator[type[Section]]:
    """Yield the sections that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from sections(argument)


def _line(text: str, key: Key) -> int:
    """Return the number of the line of a key, or of the nearest table around it."""
    names = [str(part) for part in key]
    best = 1
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = [part.strip().strip("\"'") for part in match[1].split(".")]
            if table == names[: len(table)]:
                best = number
        elif match := re.match(r"""\s*["']?([\w.-]+)["']?\s*=""", line):
            path = [*table, match[1]]
            if path == names[: len(path)]:
                return number
    return best
