"""Check of what nftables reads."""

from contextlib import suppress
from pathlib import Path

from cubicweb_hasite.deploy.programs import Answer, Host, NotChecked, NotInstalled, examine_file

_NO_RIGHT = "Operation not permitted"


def nftables(host: Host, path: Path) -> str:
    """Check the rules of a firewall, by the kernel too, which takes the right to change them.

    Who has not this right has it in a network of their own.
    """

    def ask(file: Path) -> Answer:
        command: list[str | Path] = ["-c", "-f", file]
        answer = host.run("nft", *command)
        if not _lacks_right(answer):
            return answer
        nft = host.find("nft")
        with suppress(NotInstalled):
            answer = host.run("unshare", "--user", "--map-root-user", "--net", nft, *command)
        if _lacks_right(answer):
            raise NotChecked("nft needs the right to change a network: run it as root")
        return answer

    examine_file(host, path, ask, "table inet right {\n}\n")
    return "nft -c"


def _lacks_right(answer: Answer) -> bool:
    return answer.refused and any(_NO_RIGHT in line for line in answer.lines)
