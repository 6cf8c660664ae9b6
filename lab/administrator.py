"""Who carries out the runbook on the lab's hosts: its commands are run as they are written."""

import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from hosts import Host, LabError
from servers.runbook import ADMIN, LEADER, Block

#: that of the rendered files on the administrator's machine
FOLDER = "/root/out"
#: what a person replaces
_WORDS = re.compile(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b")


class Administrator:
    """Carries out the blocks of a runbook, in their order.

    :param hosts: the hosts, by their names; `admin` is the machine with the rendered files
    :param leader: returns the primary of the database
    :param words: what is written in the place of each word in capitals
    :param typed: what is typed where a command asks for a password
    """

    def __init__(
        self,
        hosts: Mapping[str, Host],
        leader: Callable[[], Host],
        words: dict[str, str],
        typed: str,
    ) -> None:
        self._hosts = hosts
        self._leader = leader
        self.words = words
        self._typed = typed
        self._former = Block("", "")

    def carry_out(self, block: Block, *, only: Collection[str] = ()) -> None:
        """Do what a block says. What it is said to print, it must print.

        :param only: the hosts on which it is done, by default all; what `admin` does is done
        :raises LabError: a command failed, or printed something else, or it is not said on which
            host it is run.
        """
        former, self._former = self._former, block
        text = _WORDS.sub(lambda word: self.words.get(word[0], word[0]), block.text)
        hosts = self._hosts_of(former if block.is_file else block)
        if only:
            hosts = [host for host in hosts if host.name in {*only, ADMIN}]
        if block.is_file:
            for host in hosts:
                host.run(f"cat > {former.text.split()[-1]}", stdin=text)
            return
        if not hosts:
            return
        typed = "".join(f"{line}\n" for line in block.typed) or self._typed
        with ThreadPoolExecutor(1 if block.in_turn else len(hosts)) as executor:
            printed = list(executor.map(lambda host: self._run(host, text, typed), hosts))
        for host, output in zip(hosts, printed, strict=True):
            for expected in block.prints:
                if expected not in output:
                    raise LabError(f"{host.name} did not print {expected}: {text}\n{output}")

    def _run(self, host: Host, text: str, typed: str) -> str:
        folder = FOLDER if host.name == ADMIN else "/"
        return host.run(f"cd {folder}\n{text}", stdin=typed, timeout=600)

    def _hosts_of(self, block: Block) -> list[Host]:
        if not block.hosts:
            raise LabError(f"on which host? {block.before}\n{block.text}")
        return [self._leader() if name == LEADER else self._hosts[name] for name in block.hosts]
