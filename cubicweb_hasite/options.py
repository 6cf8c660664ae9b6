"""The values of the cube's options: parsed, and validated at the start of an instance.

Imports nothing of the package. All errors have one form: `option NAME is VALUE: give WHAT`.
"""

import logging
import re
from collections.abc import Container, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from cubicweb import ConfigurationError
from logilab.common.optik_ext import OptionValueError, check_yn

log = logging.getLogger(__name__)

#: who may ask the monitors on the port of visitors
ACCESSES = ("open", "token", "closed")
#: Options that `hasite-speed-ups` replaces, each for one speed-up. They are still accepted.
REPLACED_SPEED_UPS = (
    "hasite-remember-source-lines",
    "hasite-remember-options",
    "hasite-load-users-at-once",
    "hasite-look-up-rdf-on-demand",
)

_SECONDS = ("hasite-image-max-age", "hasite-probe-deadline", "hasite-pool-timeout")
# a name or an address, that of IPv6 in brackets
_STANDBY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::([0-9]{1,5}))?", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


def invalid(option: str, value: object, wanted: str) -> ConfigurationError:
    """Return the error for an option with a value that makes no sense.

    :param value: the value, or what is wrong with a secret one
    :param wanted: what to give instead
    """
    return ConfigurationError(f"option {option} is {value}: give {wanted}")


def check(config: Mapping[str, Any], views: Container[str]) -> None:
    """Validate the values of all options of the cube.

    :param views: the identifiers of the instance's views
    :raises ConfigurationError: a value makes no sense.
    """
    for option in _SECONDS:
        if config[option] < 0:
            raise invalid(option, config[option], "0 seconds or more")
    if config["hasite-storage-deadline"] <= 0:
        raise invalid(
            "hasite-storage-deadline", config["hasite-storage-deadline"], "more than 0 seconds"
        )
    for name in config["hasite-s3-attributes"]:
        if not re.fullmatch(r"\w+\.\w+", name):
            raise invalid("hasite-s3-attributes", name, "a type and an attribute, as File.data")
    if "#" in config["hasite-s3-prefix"]:  # by which s3storage separates versions
        raise invalid("hasite-s3-prefix", config["hasite-s3-prefix"], "one without #")
    access, token = config["hasite-monitor-access"], config["hasite-monitor-token"]
    if access not in ACCESSES:
        raise invalid("hasite-monitor-access", repr(access), f"one of {', '.join(ACCESSES)}")
    if access == "token" and not token:
        raise invalid("hasite-monitor-access", "token", "the token in hasite-monitor-token")
    if token and not _TOKEN.fullmatch(token):
        raise invalid(
            "hasite-monitor-token",
            "not a Bearer token",
            "one of ASCII letters, digits and - . _ ~ + /",
        )
    port = config["hasite-management-port"]
    if not 0 <= port < 65536:
        raise invalid("hasite-management-port", port, "0 to 65535")
    for view in page_ages(config):
        if view not in views:
            raise invalid("hasite-page-max-age", f"for a view {view!r}", "views that exist")
    for url in config["hasite-purge-urls"] or ():
        cache_url(url)
    for host in config["hasite-standby-hosts"] or ():
        standby(host)
    lag, outage = config["hasite-standby-max-lag"], config["hasite-standby-max-outage"]
    if not 1 <= lag <= 60:
        raise invalid("hasite-standby-max-lag", lag, "1 to 60 seconds")
    if outage < 0:
        raise invalid("hasite-standby-max-outage", outage, "0 seconds or more")
    speed_ups(config)
    _warn_of_replaced(config)


def page_ages(config: Mapping[str, Any]) -> dict[str, int]:
    """Return how long pages may be kept, in seconds, by their views.

    :raises ConfigurationError: an entry of the option has the wrong format.
    """
    found = {}
    for entry in config.get("hasite-page-max-age", ()):
        view, _colon, age = (part.strip() for part in entry.rpartition(":"))
        if not view or not age.isdecimal() or not int(age):
            raise invalid(
                "hasite-page-max-age", repr(entry), "a view and 1 second or more, as in index:10"
            )
        found[view] = int(age)
    return found


def cache_url(url: str) -> SplitResult:
    """Return the parts of the URL of a cache, an entry of `hasite-purge-urls`.

    :raises ConfigurationError: it is not the URL of a host and a port.
    """
    try:
        parts = urlsplit(url)
        _port = parts.port
    except ValueError:  # of an address in brackets, or of the port
        parts = urlsplit("")
    complete = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
    if not complete or parts.query or parts.username:
        raise invalid("hasite-purge-urls", repr(url), "URLs such as http://10.0.0.1:3128/")
    return parts


def standby(entry: str) -> tuple[str, int | None]:
    """Return host and port of an entry of `hasite-standby-hosts`, None for that of `db-port`.

    :raises ConfigurationError: it is not a host, with or without a port.
    """
    match = _STANDBY.fullmatch(entry.strip())
    if match is None or (match[3] and not 0 < int(match[3]) < 65536):
        raise invalid("hasite-standby-hosts", repr(entry), "hosts such as db2 or 10.0.0.2:5432")
    return match[1] or match[2], int(match[3]) if match[3] else None


def speed_ups(config: Mapping[str, Any]) -> set[str]:
    """Return the speed-ups that are on, by the names of the options that they had.

    :raises ConfigurationError: one of those is neither yes nor no.
    """
    found = set()
    for option in REPLACED_SPEED_UPS:
        value = config.get(option)
        try:
            on = value in (None, "") or check_yn(None, option, value)
        except OptionValueError:
            raise invalid(option, repr(value), "yes or no to hasite-speed-ups") from None
        if on and config["hasite-speed-ups"]:
            found.add(option)
    return found


def _warn_of_replaced(config: Mapping[str, Any]) -> None:
    """Log which options have a value although another one replaces them."""
    for option in REPLACED_SPEED_UPS:
        if config.get(option):
            log.warning(
                "option %s is replaced by hasite-speed-ups, which is for all speed-ups: remove it",
                option,
            )
