"""What is run on a host of `network.py`: it listens, or says in JSON what it finds.

probes.py listen PORTS | scan TARGETS | receives PROTOCOL VERSION COUNT | sends PROTOCOL ADDRESS |
    echoes ADDRESS
"""

import contextlib
import errno
import json
import select
import socket
import sys
import time

#: seconds without an answer after which there will be none
_PATIENCE = 3


def listen(ports: list[int]) -> None:
    """Listen on TCP ports, of IPv4 and IPv6, for ever."""
    listeners = [
        socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        for port in ports
    ]
    print("ready", flush=True)
    time.sleep(1e9)
    del listeners


def scan(targets: list[tuple[str, int]]) -> list[tuple[str, int, str]]:
    """Return each address and TCP port with its state: open, refused or silent."""
    states, waiting, poll = {}, {}, select.poll()
    for address, port in targets:
        sock = socket.socket(_family(address))
        sock.setblocking(False)
        states[address, port] = "silent"
        with contextlib.suppress(BlockingIOError):
            if (error := sock.connect_ex((address, port))) != errno.EINPROGRESS:
                raise OSError(error, f"{address} {port}")
        poll.register(sock, select.POLLOUT)
        waiting[sock.fileno()] = (sock, address, port)
    deadline = time.monotonic() + _PATIENCE
    while waiting and (found := poll.poll(max(0, deadline - time.monotonic()) * 1000)):
        for number, _events in found:
            sock, address, port = waiting.pop(number)
            poll.unregister(number)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error not in (0, errno.ECONNREFUSED):
                raise OSError(error, f"{address} {port}")
            states[address, port] = "refused" if error else "open"
            sock.close()
    return [(address, port, state) for (address, port), state in states.items()]


def receives(protocol: int, version: int, count: int) -> list[str]:
    """Return from where some packets of an IP protocol come, as many as are to be waited for."""
    found = []
    with socket.socket(_family(version), socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(30)
        with contextlib.suppress(TimeoutError):
            while len(found) < count:
                found.append(sock.recvfrom(65536)[1][0])
    return found


def sends(protocol: int, address: str) -> None:
    """Send a packet of an IP protocol."""
    with socket.socket(_family(address), socket.SOCK_RAW, protocol) as sock:
        sock.sendto(b"hasite", (address, 0))


def echoes(address: str) -> bool:
    """Return whether a host answers to a ping: RFC 792, RFC 4443."""
    new = ":" in address
    request, reply = (b"\x80\0\0\0", 129) if new else (b"\x08\0\xf7\xff", 0)
    protocol = socket.IPPROTO_ICMPV6 if new else socket.IPPROTO_ICMP
    with socket.socket(_family(address), socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(_PATIENCE)
        sock.sendto(request + bytes(4), (address, 0))
        with contextlib.suppress(TimeoutError):
            while True:
                packet = sock.recv(65536)
                if packet[0 if new else 20] == reply:
                    return True
    return False


def _family(address: str | int) -> socket.AddressFamily:
    return socket.AF_INET6 if address == 6 or ":" in str(address) else socket.AF_INET


if __name__ == "__main__":
    function = {f.__name__: f for f in (listen, scan, receives, sends, echoes)}[sys.argv[1]]
    print(json.dumps(function(*map(json.loads, sys.argv[2:]))))
