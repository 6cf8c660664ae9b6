"""Bring the lab up or down, look at it, run a command on one of its hosts.

lab.py up | down | status
lab.py run <host> <command>
"""

import os
import sys
import time

from hosts import CHECKOUT, Lab, LabError
from installation import Site

FOLDER = CHECKOUT / "var" / "lab"

_READY = """\
Ready after {seconds:.0f} s. The hosts are {hosts}.
  lab/run web1                                 a shell on a host
  lab/run lb1 ip -brief address                where is the floating address, {floating}?
  lab/run client curl -sI --cacert {certificate} {url}
  lab/run web1 systemctl kill --signal=KILL squid      a failure
  lab/run db1 patronictl -c /etc/patroni/config.yml list
The runbook is {folder}/out/runbook.md; its commands run on the hosts as they are written.
More failures are in docs/lab.md. `make lab-down` ends it."""


def up() -> None:
    """Bring it up; nothing of it is left if that fails."""
    started = time.monotonic()
    lab = Lab(FOLDER)
    lab.start()
    try:
        site = Site.render(lab)
        site.install(
            lambda what: print(f"{time.monotonic() - started:5.1f} s  {what}", flush=True)
        )
        lab.save({"seconds": round(time.monotonic() - started, 1)})
    except BaseException:
        if not os.environ.get("LAB_KEEP"):
            lab.down()
        raise
    print(
        _READY.format(
            seconds=time.monotonic() - started,
            hosts=", ".join(lab.hosts),
            floating="10.0.0.10",
            certificate=site.certificate,
            url=site.url,
            folder=lab.folder,
        )
    )


def running() -> Site:
    """Return the site of the lab that runs.

    :raises LabError: there is none.
    """
    lab = Lab(FOLDER)
    lab.saved()
    return Site(lab)


def run(host: str, *words: str) -> None:
    """Become a command on a host."""
    site = running()
    if host not in site.lab.hosts:
        raise LabError(f"no host {host}; there are {', '.join(site.lab.hosts)}")
    command = site.lab[host].command(*(words or ("bash",)))
    os.execvp(command[0], command)


def status() -> None:
    """Print who does what."""
    site = running()
    for name, host in site.lab.hosts.items():
        print(f"{name:8} {'on' if host.on else 'off'}")
    balancer, primary = site.active_balancer(), site.primary()
    print(f"floating address: {balancer.name if balancer else 'nowhere, or in two places'}")
    print(f"primary: {primary.name if primary else 'none'}, standbys: {site.standbys()}")
    print(f"in service: {', '.join(sorted(site.in_service())) or 'no instance'}")


def main(arguments: list[str]) -> int:
    """Do what is asked for; return the exit status."""
    match arguments:
        case ["up"]:
            action = up
        case ["down"]:
            action = Lab(FOLDER).down
        case ["status"]:
            action = status
        case ["run", host, *words]:
            action = lambda: run(host, *words)  # noqa: E731
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    try:
        action()
    except (LabError, TimeoutError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
