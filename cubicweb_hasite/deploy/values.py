"""Types of the values of a site file. Each error says what is wrong and gives a right example."""

import re
from ipaddress import ip_address, ip_interface, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address; write one such as 10.0.0.11") from None


def _interface(value: str) -> str:
    try:
        if "/" not in value:
            raise ValueError
        return str(ip_interface(value))
    except ValueError:
        raise ValueError(
            f"{value!r} is not an address with its prefix; write one such as 192.0.2.10/24"
        ) from None


def _network(value: str) -> str:
    try:
        network = ip_network(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is no address and no network; write one such as 192.0.2.7 or 192.0.2.0/24"
        ) from None
    return str(network) if "/" in value else str(network.network_address)


def _path(value: str) -> str:
    if not re.fullmatch(r"/[\w./-]+", value) or value.endswith("/"):
        raise ValueError(f"{value!r} is not an absolute path; write one such as /srv/folder")
    return value


def _reach(value: str) -> str:
    if re.search(r"[{}]", re.sub(r"\{(host|address)\}", "", value)) or not value.strip():
        raise ValueError(
            f"{value!r} is not how to reach a host; write a command to which another is added, "
            "such as ssh root@{address}, with {host} and {address} alone in braces"
        )
    return value


def _conninfo(value: str) -> str:
    if re.search(r"password\s*=|://[^/@]*:[^/@]*@", value.replace("passfile", "")):
        raise ValueError(
            "it holds a password, which belongs into a .pgpass file; write one such as "
            "host=/var/run/postgresql user=rehearsal"
        )
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    try:
        right = parts.port != 0 and re.fullmatch(r"[a-z0-9.:\[\]-]+", parts.netloc)
    except ValueError:  # of the port
        right = False
    if parts.scheme not in ("http", "https") or not right or parts.path != "/" or parts.query:
        raise ValueError(
            f"{value!r} is not the address of a site; write one such as "
            "https://www.example.org/, in small letters, without user, path or query"
        )
    return value


def _endpoint(value: str) -> str:
    if "@" in value:
        raise ValueError(
            "it holds a key, which belongs into the secrets file of the site; write one such as "
            "https://s3.example.org"
        )
    parts = urlsplit(value)
    try:
        right = parts.port != 0 and re.fullmatch(r"[a-z0-9.:\[\]-]+", parts.netloc)
    except ValueError:  # of the port
        right = False
    if parts.scheme not in ("http", "https") or not right or parts.path or parts.query:
        raise ValueError(
            f"{value!r} is not the address of an object store; write one such as "
            "https://s3.example.org, in small letters, without bucket or final slash"
        )
    return value


def host_pattern(names: list[str], port: int | None = None) -> str:
    """Return a regular expression of the values of `Host`, in small letters, that mean names."""
    alternatives = "|".join(re.escape(f"[{n}]" if ":" in n else n.lower()) for n in names)
    return rf"^({alternatives})\.?" + (f":{port}$" if port else "(:(80|443))?$")


Address = Annotated[str, AfterValidator(_address)]
Interface = Annotated[str, AfterValidator(_interface)]
#: an address, or a network, whose address has no bits beyond its prefix
Network = Annotated[str, AfterValidator(_network)]
AbsolutePath = Annotated[str, AfterValidator(_path)]
#: as in the header `Accept-Language`
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z]{2,4})?$")]
URL = Annotated[str, AfterValidator(_url)]
#: where an object store of S3 is
Endpoint = Annotated[str, AfterValidator(_endpoint)]
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
BucketName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
#: an attribute of a type of entities
AttributeName = Annotated[str, StringConstraints(pattern=r"^[A-Z]\w*\.[a-z]\w*$")]
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]
#: it is a part of names of files, of units and of databases
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]
#: a command to which another is added
ReachCommand = Annotated[str, AfterValidator(_reach)]
#: how to reach a PostgreSQL server, in libpq's format
ConnectionString = Annotated[str, AfterValidator(_conninfo)]
