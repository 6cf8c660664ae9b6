"""The answers of the monitors, for any transport.

There are four monitors at `/view?vid=monitor_…`, and `/livez`, `/readyz` and `/metrics`. They
answer in plain text, or in JSON for `Accept: application/json` or `?format=json`. On the public
port the option `hasite-monitor-access` says who may use them. It does not depend on anything that
a proxy changes, such as an address.
"""

import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.server.repository import Repository
from webob.multidict import MultiDict

from cubicweb_hasite.__pkginfo__ import version
from cubicweb_hasite.caches import policy
from cubicweb_hasite.monitoring import metrics, probes
from cubicweb_hasite.monitoring.probes import Reading
from cubicweb_hasite.names import LIVEZ, METRICS, MONITOR_PATHS, READYZ
from cubicweb_hasite.operations import accepting, restart
from cubicweb_hasite.operations.draining import is_draining
from cubicweb_hasite.standbys import sampler
from cubicweb_hasite.storages import check

# names and kinds of the checks in JSON
_CHECKS = {
    "monitor_pool": ("pool:utilization", "component"),
    "free_pool": ("pool:utilization", "component"),
    "monitor_db": ("database:writable", "datastore"),
    "monitor_version": ("versions:consistency", "component"),
    "monitor_hostname": ("host:name", "system"),
    "draining": ("instance:draining", "component"),
    "storage": ("storage:reachable", "datastore"),
}

# the monitor that tells of the storages of data too
_OF_DATA = "monitor_db"


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


def names_monitor(query: MultiDict) -> bool:
    """Return whether a query names one of the four monitors, however often it has `vid`."""
    return not probes.PROBES.keys().isdisjoint(query.getall("vid"))


def answer(
    repo: Repository,
    path: str,
    query: MultiDict,
    headers: Mapping[str, str],
    *,
    trusted: bool,
) -> Answer | None:
    """Answer a GET or HEAD request within the deadlines, whatever the state of the instance.

    :param path: without the path of the site
    :param headers: their names are case-insensitive
    :param trusted: whether the client may get everything, as on the management port
    :return: None if there is no monitor at the path
    """
    if path in MONITOR_PATHS:
        name = path
    elif path == "/view" and names_monitor(query):
        name = query["vid"]
        if len(query.getall("vid")) > 1:
            # programs differ in which of them they take
            return error(400, "vid is given more than once")
    else:
        return None
    wants_json = _wants_json(query, headers)
    if not trusted:
        details = name == METRICS or wants_json
        refusal = refuse(repo.config, query, headers, details=details)
        if refusal is not None:
            return refusal
    if name == METRICS:
        return _metrics()
    if name == LIVEZ:
        readings = {}
    elif name == READYZ:
        readings = readiness(repo)
    else:
        readings = {name: probes.read(name, repo)}
        if name == _OF_DATA and check.names(repo):
            readings["storage"] = probes.read("storage", repo)
    failures = [reading for reading in readings.values() if not reading.ok]
    status = 503 if failures else 200
    if wants_json:
        # three states are known where there are standbys
        state = _state(readings) if name == READYZ and sampler.of(repo) is not None else ""
        return _answer(status, "application/json", _json(repo, readings, state))
    warnings: list[str] = []
    if name in readings:
        text = readings[name].text
    elif name == LIVEZ:
        text = "ServiceOK : alive"
    else:
        text = summary(failures) or f"ServiceOK : {_state(readings)}"
        advice = restart.advice(repo.config)
        if advice:
            warnings.append(f"restart this instance: {advice}")
    if not failures:
        warnings += [reading.text for reading in readings.values() if reading.degraded]
        text += f", but {'; '.join(warnings)}" if warnings else ""
    return _answer(status, "text/plain; charset=utf-8", text)


def refuse(
    config: CubicWebConfiguration,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    details: bool,
) -> Answer | None:
    """Return the refusal for a client of the public port, None if the client is allowed.

    :param details: whether the answer has more details than the four monitors
    """
    access, token = config["hasite-monitor-access"], config["hasite-monitor-token"]
    if access == "closed":
        return error(404, "monitors are answered on the management port only")
    if access == "open" and not details:
        return None
    if not token:
        return error(403, "this needs a token (option hasite-monitor-token)")
    scheme, _space, given = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":  # RFC 6750, sections 2.1 and 2.3
        given = query.get("token", "")
    if hmac.compare_digest(given.strip().encode(), token.encode()):
        return None
    refusal = error(401, "this needs the token of option hasite-monitor-token")
    refusal.headers["WWW-Authenticate"] = 'Bearer realm="monitors"'
    return refusal


def readiness(repo: Repository) -> dict[str, Reading]:
    """Return the readings that show whether the instance can serve visitors now."""
    draining = is_draining(repo.config)
    readings = {
        "draining": Reading(not draining, "ServiceKO : draining" if draining else "not draining"),
        "free_pool": probes.read("free_pool", repo),
        "monitor_db": _readable(probes.read("monitor_db", repo)),
    }
    if check.names(repo):
        readings["storage"] = probes.read("storage", repo)
    if readings["monitor_db"].checked:
        readings["monitor_version"] = _accepted(repo, probes.read("monitor_version", repo))
    return readings


def _readable(reading: Reading) -> Reading:
    """Return a healthy reading if pages are served although the database cannot be written to."""
    if not reading.reads_only:
        return reading
    text = reading.text.removeprefix("ServiceKO : ")
    return replace(reading, ok=True, text=text, degraded=True)


def _accepted(repo: Repository, reading: Reading) -> Reading:
    """Return a healthy reading if the versions of the database are accepted."""
    if not reading.ok and reading.values and accepting.is_accepted(repo.config, **reading.values):
        return Reading(True, "the versions of the database are accepted", reading.values)
    return reading


def summary(failures: Iterable[Reading]) -> str:
    """Return the reasons of failures in one text, as the monitors give it."""
    texts = [reading.text.removeprefix("ServiceKO : ") for reading in failures]
    return f"ServiceKO : {'; '.join(texts)}" if texts else ""


def _state(readings: Mapping[str, Reading]) -> str:
    """Return in which of three states an instance is: `ready`, `reads only` or `not ready`."""
    if not all(reading.ok for reading in readings.values()):
        return "not ready"
    reads_only = any(reading.reads_only for reading in readings.values())
    return "reads only" if reads_only else "ready"


def _wants_json(query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
    return "application/json" in headers.get("Accept", "") or query.get("format") == "json"


def _json(repo: Repository, readings: Mapping[str, Reading], state: str) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    failures = [reading for reading in readings.values() if not reading.ok]
    warnings = [reading for reading in readings.values() if reading.degraded]
    health: dict[str, object] = {
        "status": "fail" if failures else "warn" if warnings else "pass",
        "serviceId": repo.config.appid,
        "description": "instance of CubicWeb with cubicweb-hasite",
        "releaseId": version,
    }
    if state:
        health["state"] = state
    if failures:
        health["output"] = summary(failures)
    elif warnings:
        health["output"] = "; ".join(reading.text for reading in warnings)
    checks = {}
    for name, reading in readings.items():
        key, kind = _CHECKS[name]
        found = {
            "componentType": kind,
            "status": "warn" if reading.degraded else "pass" if reading.ok else "fail",
            "time": now,
            **_observed(reading.values),
            **reading.values,
        }
        if not reading.ok or reading.degraded:
            found["output"] = reading.text
        checks[key] = [found]
    if checks:
        health["checks"] = checks
    return json.dumps(health)


def _observed(values: Mapping[str, Any]) -> dict[str, object]:
    if values.get("maximum"):
        value = round(values["in_use"] * 100 / values["maximum"], 1)
        return {"observedValue": value, "observedUnit": "percent"}
    for name, unit in (("in_use", "connections"), ("users", "users")):
        if name in values:
            return {"observedValue": values[name], "observedUnit": unit}
    return {}


def _metrics() -> Answer:
    if not metrics.AVAILABLE:
        return error(501, "to have metrics, run: pip install 'cubicweb-hasite[metrics]'")
    return _answer(200, metrics.CONTENT_TYPE, metrics.exposition())


def error(status: int, text: str) -> Answer:
    """Return an error in plain text, with its reason."""
    return _answer(status, "text/plain; charset=utf-8", f"ServiceKO : {text}")


def _answer(status: int, content_type: str, body: str | bytes) -> Answer:
    if isinstance(body, str):
        body = body.encode()
    headers = {"Content-Type": content_type, "Cache-Control": policy.NO_STORE}
    return Answer(status, headers, body)
