"""Units of systemd, as far as those of a site need it: what is to be run, as whom, and how again.

Their sandboxing is left out: it is systemd's to test, on a real host.
"""

import re
import shlex
from collections import defaultdict
from pathlib import Path

_FOLDERS = [
    Path("/etc/systemd/system"),
    Path("/usr/lib/systemd/system"),
    Path("/lib/systemd/system"),
]
WANTED = _FOLDERS[0] / "multi-user.target.wants"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class UnknownUnit(Exception):
    """There is no unit of this name."""


class Unit:
    """A service: its unit with what is added to it.

    :param name: such as `haproxy` or `cubicweb-mysite@1`
    :param hostname: name of the host
    :raises UnknownUnit: it has no file.
    """

    def __init__(self, name: str, hostname: str) -> None:
        self.name = name
        self._hostname = hostname
        self._values: dict[str, list[str]] = defaultdict(list)
        stem, at, self._instance = name.partition("@")
        file_name = f"{stem}{at}.service"
        files = [folder / file_name for folder in _FOLDERS if (folder / file_name).is_file()]
        if not files:
            raise UnknownUnit(f"Unit {name}.service not found.")
        added = {
            path.name: path
            for folder in reversed(_FOLDERS)
            for path in folder.glob(f"{file_name}.d/*.conf")
        }
        for path in (files[0], *(added[key] for key in sorted(added))):
            self._read(path)

    def _read(self, path: Path) -> None:
        section = ""
        for line in path.read_text().replace("\\\n", " ").splitlines():
            line = line.strip()
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and line[0] not in "#;":
                key, value = (part.strip() for part in line.split("=", 1))
                if value:
                    self._values[key].append(self._specified(value))
                else:  # forgets what was said before
                    self._values.pop(key, None)

    def _specified(self, value: str) -> str:
        known = {"i": self._instance, "H": self._hostname, "n": f"{self.name}.service", "%": "%"}
        known["p"] = self.name.partition("@")[0]
        return re.sub(r"%([iHnp%])", lambda match: known[match[1]], value)

    def value(self, key: str, default: str = "") -> str:
        """Return the last value of a key."""
        return (self._values.get(key) or [default])[-1]

    def values(self, key: str) -> list[str]:
        """Return all the values of a key."""
        return self._values.get(key, [])

    def seconds(self, key: str, default: float) -> float:
        """Return a duration."""
        value = self.value(key)
        match = re.fullmatch(r"([0-9.]+)(ms|s|min)?", value)
        return float(match[1]) * {"ms": 0.001, "min": 60}.get(match[2], 1) if match else default

    def environment(self) -> dict[str, str]:
        """Return the environment of its commands.

        :raises FileNotFoundError: a file that it needs is missing.
        """
        environ = {"PATH": _PATH, "LANG": "C.UTF-8"}
        for line in self.values("Environment"):
            environ |= _assignments(shlex.split(line))
        for path in self.values("EnvironmentFile"):
            if path.startswith("-") and not Path(path[1:]).is_file():
                continue
            text = Path(path.removeprefix("-")).read_text()
            environ |= _assignments(shlex.split(text, comments=True))
        return environ

    def command(self, line: str, environ: dict[str, str]) -> list[str]:
        """Return a command as it is to be run, without the signs before it."""

        def expand(match: re.Match[str]) -> str:
            return environ.get(match[1], "")

        words = []
        for word in shlex.split(line.lstrip("-+!:@")):
            if match := re.fullmatch(r"\$(\w+)", word):  # as many words as it holds
                words += shlex.split(environ.get(match[1], ""))
            else:
                words.append(re.sub(r"\$\{(\w+)\}", expand, word))
        return words


def _assignments(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)
