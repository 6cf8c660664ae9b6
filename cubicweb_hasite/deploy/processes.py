"""What runs on the hosts: instances, and the ports that programs listen on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    """A CubicWeb process of a site: the one on the processor `number`, from 1, of a host."""

    site: str
    host: str
    number: int
    cache_port: int
    apache_port: int
    port: int
    management_port: int

    @property
    def name(self) -> str:
        """Its name in HAProxy and in the monitoring."""
        return f"{self.host}-{self.number}"


@dataclass(frozen=True)
class Listener:
    """A TCP port that a program of a host listens on.

    :param clients: roles or names of who connects; none if they are programs of the host alone
    """

    host: str
    address: str
    port: int
    program: str
    purpose: str
    clients: tuple[str, ...] = ()
