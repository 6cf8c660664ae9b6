"""The blocks of commands of a runbook, and the hosts that they are for.

The words before a block end with its hosts: `On web1, web2:`, with `one after the other` where the
order counts, or `on the leader:` for the primary of the database. `admin$` is the machine that
has the rendered files. A block may also be what a file holds, which the block before has made.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

ADMIN, LEADER = "admin", "the leader"

_BLOCK = re.compile(
    r"(?P<before>[^\n]*(?:\n(?! *\n)[^\n]*)*)\n *\n"
    r"(?P<indent> *)```\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_HOSTS = re.compile(
    rf"\b[Oo]n (?P<names>{LEADER}|[\w-]+(?:, [\w-]+)*)(?P<in_turn>, one after the other)?:$"
)


@dataclass(frozen=True)
class Block:
    """A block of commands, or of what a file holds.

    :param before: the paragraph before it
    :param text: what it holds
    """

    before: str
    text: str

    @property
    def is_file(self) -> bool:
        """Whether it is what a file holds."""
        return self.before == "then write in it:"

    @property
    def hosts(self) -> list[str]:
        """The names of its hosts, `admin`, or `the leader`; none if the paragraph names none."""
        if f"`{ADMIN}$`" in self.before:
            return [ADMIN]
        found = _HOSTS.search(self.before)
        return found["names"].split(", ") if found else []

    @property
    def in_turn(self) -> bool:
        """Whether it is for one host after the other."""
        found = _HOSTS.search(self.before)
        return found is not None and found["in_turn"] is not None

    @property
    def prints(self) -> list[str]:
        """What its commands print, as their comments say."""
        return re.findall(r"(?m)# prints: (.*)$", self.text)


def chapter(runbook: str, number: int) -> str:
    """Return the text of a chapter."""
    return re.search(rf"(?ms)^## {number}\..*?(?=^## |\Z)", runbook)[0]


def blocks(runbook: str, number: int) -> Iterator[Block]:
    """Yield the blocks of a chapter in their order."""
    for found in _BLOCK.finditer(chapter(runbook, number)):
        yield Block(" ".join(found["before"].split()), textwrap.dedent(found["text"]))
