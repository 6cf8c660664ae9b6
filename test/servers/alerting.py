"""Prometheus, Alertmanager and blackbox exporters with rendered files, and a mail server."""

import re
import shlex
import threading
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import requests
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from servers.support import Server, ServerProcess, find_program, free_port, listens

#: an address and a port in rendered files
_PLACE = re.compile(r"\b10\.0\.0\.\d+:\d+\b")


class Places:
    """Ports of 127.0.0.1 in the place of the addresses and ports of rendered files.

    :param ports: those that are known; another address gets the port of its host, or that of
        all hosts that are not named
    """

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports

    def here(self, text: str) -> str:
        """Return a text with places of this machine."""
        return _PLACE.sub(lambda place: f"127.0.0.1:{self.port(place[0])}", text)

    def port(self, place: str) -> int:
        """Return the port for an address and a port of a rendered file."""
        host = place.partition(":")[0]
        return self.ports.get(place) or self.ports.get(host) or self.ports["others"]


class RenderedProgram(ServerProcess, Server):
    """A program, started with the arguments that a rendered file gives it.

    :param name: Debian's package, and its name but for Prometheus' beginning
    :param root: the rendered files of its host, with places of this machine
    :param directory: where it writes
    :param more: arguments that replace what only a host has
    :param address: one of this machine's
    """

    def __init__(
        self,
        name: str,
        root: Path,
        port: int,
        directory: Path,
        *more: str,
        address: str = "127.0.0.1",
    ) -> None:
        self.url = f"http://{address}:{port}"
        text = (root / "etc/default" / name).read_text()
        [arguments] = re.findall(r'(?m)^ARGS="(.*)"$', text)
        arguments = re.sub(r"=/etc/", f"={root}/etc/", arguments)
        arguments = re.sub(
            r"--web.listen-address=\S+", f"--web.listen-address={address}:{port}", arguments
        )
        program = find_program(name, name)
        command = [program, *shlex.split(arguments), *more]
        super().__init__(command, directory / f"{name}-{port}.log")
        self._place = address, port

    def start(self) -> None:
        """Start the program and wait until it is ready: it listens before."""
        self.spawn(self._is_ready, timeout=120)

    def _is_ready(self) -> bool:
        address, port = self._place
        # the exporter has no such page, and needs none
        return listens(port, address) and (
            requests.get(f"{self.url}/-/ready", timeout=10).status_code in (200, 404)
        )

    def get(self, path: str) -> Any:
        """Return what it answers, from JSON."""
        answer = requests.get(f"{self.url}{path}", timeout=10)
        answer.raise_for_status()
        return answer.json()


class MailServer(Server):
    """A server that takes mails from one user, and keeps them."""

    def __init__(self, user: str, password: str) -> None:
        self.port = free_port()
        self.mails: list[EmailMessage] = []

        def authenticate(_server, _session, _envelope, _mechanism, data):  # type: ignore[no-untyped-def]
            right = LoginPassword(user.encode(), password.encode())
            # it answers that the password is wrong
            return AuthResult(success=data == right, handled=False)

        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=authenticate,
            auth_required=True,
            auth_require_tls=False,
            # its prompts of LOGIN are not those that Alertmanager understands
            auth_exclude_mechanism=["LOGIN"],
        )

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        """Keep a mail."""
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    def start(self) -> None:
        """Start the server."""
        self._controller.start()

    def stop(self) -> None:
        """Stop the server."""
        self._controller.stop()


class Receiver:
    """An HTTP server that keeps what is posted to it: path and body."""

    def __init__(self) -> None:
        self.port = free_port()
        self.posts: list[tuple[str, bytes]] = []
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                posts.append((self.path, self.rfile.read(length)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class SecureSite(ServerProcess, Server):
    """HAProxy that answers each path of a site as a cache does, with a certificate.

    :param certificate: with its key, in one file
    """

    def __init__(self, certificate: Path, directory: Path) -> None:
        self.port = free_port()
        path = directory / "haproxy.cfg"
        path.write_text(
            "defaults\n mode http\n timeout client 9s\n"
            f"frontend site\n bind 127.0.0.1:{self.port} ssl crt {certificate}\n"
            " http-request return status 421 unless { req.fhdr(host) -m str www.example.org }\n"
            ' http-request return status 200 content-type text/plain string "a page" '
            "hdr X-Served-By web1-1\n"
        )
        command = [find_program("haproxy", "haproxy"), "-db", "-f", str(path)]
        super().__init__(command, directory / "haproxy.log")

    def start(self) -> None:
        """Start HAProxy and wait until it listens."""
        self.spawn(lambda: listens(self.port))


def write_here(
    rendering: dict[str, Any], host: str, root: Path, here: Callable[[str], str]
) -> None:
    """Write the rendered files of a host, with places of this machine."""
    for path, file in rendering.items():
        name, _, inside = path.partition("/")
        if name == host and inside:
            (root / inside).parent.mkdir(parents=True, exist_ok=True)
            (root / inside).write_text(here(file.content.decode()))
