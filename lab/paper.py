"""Carry out the runbook on the lab's hosts: its commands are run as they are written.

The words before a block of commands end with the hosts that it is for: `On web1, web2:`, with
`one after the other` where the order counts, or `on the leader:` for the primary of the database.
`admin$` is the machine that has the rendered files. What a block is said to print, it must print.
"""

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hosts import Host, LabError

_BLOCK = re.compile(
    r"(?P<before>[^\n]*(?:\n(?! *\n)[^\n]*)*)\n *\n"
    r"(?P<indent> *)```\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_HOSTS = re.compile(r"\b[Oo]n (?P<names>[\w-]+(?:, [\w-]+)*)(?P<in_turn>, one after the other)?:$")
_LEADER, _FILE, _ADMIN = "on the leader:", "then write in it:", "`admin$`"
#: that of the rendered files on the administrator's machine
FOLDER = "/root/out"
#: what a person replaces
_WORDS = re.compile(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b")


@dataclass(frozen=True)
class Block:
    """A block of commands, or of what a file holds.

    :param before: the paragraph before it
    :param text: what it holds
    """

    before: str
    text: str

    @property
    def prints(self) -> list[str]:
        """What its commands print, as their comments say."""
        return re.findall(r"(?m)# prints: (.*)$", self.text)


def blocks(runbook: str, chapter: int) -> Iterator[Block]:
    """Yield the blocks of a chapter in their order."""
    text = re.search(rf"(?ms)^## {chapter}\..*?(?=^## |\Z)", runbook)[0]
    for found in _BLOCK.finditer(text):
        yield Block(" ".join(found["before"].split()), textwrap.dedent(found["text"]))


class Operator:
    """Who carries out the runbook.

    :param hosts: the hosts, by their names; `admin` is the machine with the rendered files
    :param leader: returns the primary of the database
    :param words: what is written in the place of each word in capitals
    :param typed: what is typed where a command asks for a password
    """

    def __init__(
        self,
        hosts: Mapping[str, Host],
        leader: Callable[[], Host],
        words: Mapping[str, str],
        typed: str,
    ) -> None:
        self._hosts = hosts
        self._leader = leader
        self._words = words
        self._typed = typed
        self._former: Block | None = None

    def carry_out(self, block: Block) -> None:
        """Do what a block says.

        :raises LabError: a command failed, or printed something else than it is said to, or it is
            not said what the block is for.
        """
        text = _WORDS.sub(lambda word: self._words.get(word[0], word[0]), block.text)
        former, self._former = self._former, block
        if block.before == _FILE:
            assert former is not None
            for host in self._named(former)[0]:
                host.run(f"cat > {former.text.split()[-1]}", stdin=text)
            return
        hosts, in_turn = self._named(block)
        with ThreadPoolExecutor(1 if in_turn else len(hosts)) as executor:
            printed = list(executor.map(lambda host: self._run(host, text), hosts))
        for host, output in zip(hosts, printed, strict=True):
            for expected in block.prints:
                if expected not in output:
                    raise LabError(f"{host.name} did not print {expected}: {text}\n{output}")

    def _run(self, host: Host, text: str) -> str:
        folder = FOLDER if host.name == "admin" else "/"
        return host.run(f"cd {folder}\n{text}", stdin=self._typed, timeout=600)

    def _named(self, block: Block) -> tuple[list[Host], bool]:
        """Return the hosts of a block, and if it is for one after the other."""
        if _ADMIN in block.before:
            return [self._hosts["admin"]], True
        if block.before.lower().endswith(_LEADER):
            return [self._leader()], True
        found = _HOSTS.search(block.before)
        if not found:
            raise LabError(f"on which host? {block.before}\n{block.text}")
        return [self._hosts[name] for name in found["names"].split(", ")], bool(found["in_turn"])
