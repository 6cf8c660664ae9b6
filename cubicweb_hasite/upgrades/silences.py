"""A silence at Alertmanager while production is upgraded: what the upgrade causes is not mailed.

It is made on a monitoring host, as the other commands of an upgrade: Alertmanager need not be
reached from here. https://github.com/prometheus/alertmanager/blob/v0.25.0/api/v2/openapi.yaml
"""

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from cubicweb_hasite.deploy import tables
from cubicweb_hasite.deploy.site import ALERTMANAGER_PORT, Site
from cubicweb_hasite.upgrades.host_commands import HostCommands

#: what any upgrade causes: instances are restarted, one after the other
RESTARTS = (
    "HasiteDraining",
    "HasiteInstanceDown",
    "HasiteRestartAdvised",
    "HasiteVersionsDiffer",
    "InstanceOutOfService",
)
#: what is so too while instances may only read, from a standby that replays nothing
READ_ONLY = ("HasiteDatabaseUnavailable", "ReplicationLag")
#: what an interruption causes too
INTERRUPTION = (
    "HasiteErrors",
    "NoInstance",
    "Queueing",
    "SiteSlow",
    "SiteUnreachable",
)
#: and if the balancers have no other site, for they count errors of all together
ALL_SITES = ("ManyErrors",)
#: after which the silence ends by itself, if it could not be removed
_LONGEST = timedelta(hours=2)
_TIMEOUT = 30


@contextmanager
def silenced(
    site: Site, name: str, comment: str, say: Callable[[str], None], *, verdict: str
) -> Iterator[None]:
    """Silence the alerts that an upgrade causes, until it is over or has failed.

    Where there is no Alertmanager that answers, this is said, and the upgrade goes on.

    :param name: name of the site that is upgraded
    :param comment: what is read at Alertmanager
    :param say: is told what was done, and what could not be done
    :param verdict: that of the rehearsal: what visitors notice
    """
    made = _make(site, name, comment, say, verdict) if site.alerts else None
    try:
        yield
    finally:
        if made:
            host, identity = made
            if _ask(site, name, host, "DELETE", f"silence/{identity}") is None:
                say(
                    f"the silence {identity} could not be removed on {host}: it ends by itself "
                    f"{_hours(_LONGEST)} hours after it was made"
                )
            else:
                say("alerts are told again")


def _hours(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:g}"


def _make(
    site: Site, name: str, comment: str, say: Callable[[str], None], verdict: str
) -> tuple[str, str] | None:
    """Return the host where a silence was made, and its identity."""
    now = datetime.now(UTC)
    alerts: tuple[str, ...] = RESTARTS
    if verdict == "read-only":
        alerts += READ_ONLY
    elif verdict == "stopped":
        alerts += INTERRUPTION + (ALL_SITES if len(site.sites) == 1 else ())
    # a label that an alert has not got is empty; another site's are told
    matched = {"alertname": "|".join(alerts), "site": f"{name}|", "proxy": f"{name}|"}
    silence = {
        "matchers": [
            {"name": label, "value": value, "isRegex": True, "isEqual": True}
            for label, value in matched.items()
        ],
        "startsAt": now.isoformat(),
        "endsAt": (now + _LONGEST).isoformat(),
        "createdBy": "hasite-upgrade",
        "comment": comment,
    }
    # Alertmanagers tell each other
    for host in site.monitoring:
        answer = _ask(site, name, host, "POST", "silences", json.dumps(silence))
        try:
            identity = json.loads(answer or "")["silenceID"]
        except (ValueError, LookupError, TypeError):
            continue
        say(f"alerts of what the upgrade restarts are silenced at {host}")
        return host, identity
    say(
        f"no Alertmanager answers on {', '.join(site.monitoring)}: alerts are not silenced, and "
        "the upgrade goes on"
    )
    return None


def _ask(
    site: Site, name: str, host: str, method: str, path: str, data: str | None = None
) -> str | None:
    """Return the answer of the Alertmanager of a host, None if there is none."""
    address = tables.bracketed(site.hosts[host].management)
    url = f"http://{address}:{ALERTMANAGER_PORT}/api/v2/{path}"
    command = ["curl", "--silent", "--fail", "--max-time", "10", "--request", method, url]
    if data is not None:
        command += ["--header", "Content-Type: application/json", "--data", data]
    line = HostCommands(site, name).on(host, shlex.join(command))
    try:
        result = subprocess.run(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return None
    return None if result.returncode else result.stdout
