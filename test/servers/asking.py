"""Requests as they are written, without the help of a library that would put them right."""

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What was answered: header fields by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body, as UTF-8."""
        return self.body.decode(errors="replace")


def ask(
    port: int,
    target: str,
    *,
    host: str | None,
    method: str = "GET",
    tls: bool = False,
    **headers: str,
) -> Answer:
    """Make a request to a server of this machine.

    :param target: what is asked for, as it is to be written in the first line
    :param host: value of `Host`; None: no such field
    :param tls: whether by TLS, whatever certificate the server has
    :param headers: other header fields, with `_` for `-`
    """
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=30, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if host is not None:
            connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, fields, response.read())
    finally:
        connection.close()
