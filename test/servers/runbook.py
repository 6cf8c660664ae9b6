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
    :param step: number of the step of the chapter that it belongs to, 0 if it belongs to none
    """

    before: str
    text: str
    step: int = 0

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

    @property
    def typed(self) -> list[str]:
        """What is typed where its commands ask, as their comments say."""
        return [
            line
            for answers in re.findall(r"(?m)# .*\btype: (.*)$", self.text)
            for line in answers.split(", then: ")
        ]


def chapter(runbook: str, number: int) -> str:
    """Return the text of a chapter, empty if the runbook has none of this number."""
    found = re.search(rf"(?ms)^## {number}\..*?(?=^## |\Z)", runbook)
    return found[0] if found else ""


def blocks(runbook: str, number: int) -> Iterator[Block]:
    """Yield the blocks of a chapter in their order."""
    text = chapter(runbook, number)
    for found in _BLOCK.finditer(text):
        # a step ends where a paragraph is not indented
        *_, start = re.finditer(r"(?m)^(?:(\d+)\. |[^\s`])", text[: found.start("indent")])
        step = int(start[1] or 0)
        yield Block(" ".join(found["before"].split()), textwrap.dedent(found["text"]), step)


def commands(markdown: str) -> list[tuple[str, str, bool]]:
    """Return the commands of the report of a rehearsal.

    :return: of each what is run, what it prints, and whether it is repeated until it does
    """
    found = re.findall(
        r"^```shell\n(.*?)\n```\n\n(?:(It prints|Repeat it).*?:\n\n((?:    .*\n)+))?",
        markdown,
        re.M,
    )
    return [(line, textwrap.dedent(text).strip(), how == "Repeat it") for line, how, text in found]
