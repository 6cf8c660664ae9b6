"""What is wrong with a site, in words, the worst first: how the page for operators begins."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cubicweb import _

from cubicweb_hasite.__pkginfo__ import documentation
from cubicweb_hasite.monitoring.overview import Database, Instance, Overview
from cubicweb_hasite.monitoring.presence import INTERVAL

#: for how long an instance may tell nothing of itself, in seconds
SILENCE = 3 * INTERVAL
#: how much a replica may have still to replay, in bytes: four files of the WAL
BEHIND = 4 * 2**24
#: the part of the database's connections that may be in use
CONNECTIONS = 0.9

_SILENT = _("%(names)s: nothing heard for %(seconds)s seconds")
_NOT_READY = _("%(names)s: not ready: %(reason)s")
_DEGRADED = _("%(names)s: degraded: %(reason)s")
_DRAINING = _("%(names)s: being drained, gets no visitors")
_TELLS_NOTHING = _("%(names)s: an instance that tells nothing of itself")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong."""

    #: a message that can be translated, with places such as `%(names)s`
    text: str
    #: heading of what to do, as a link names it
    section: str
    values: dict[str, Any] = field(default_factory=dict)
    #: False for what may be intended
    urgent: bool = True

    @property
    def url(self) -> str:
        """The address of the document that says what to do."""
        return f"{documentation}/monitor.md#{self.section}"

    def __str__(self) -> str:
        return self.text % self.values


def problems(overview: Overview) -> list[Problem]:
    """Return what is wrong, the worst first."""
    return [
        *_of_database(overview),
        *_of_instances(overview.instances),
        *_of_caches(overview),
        *_of_drained(overview.instances),
    ]


def _of_database(overview: Overview) -> Iterator[Problem]:
    if overview.unavailable:
        yield Problem(
            _("The database cannot be asked: %(reason)s"),
            "what-monitor_db-says-and-what-to-do",
            {"reason": overview.unavailable},
        )
    database = overview.database
    if database is None:
        return
    if database.standby or database.read_only:
        yield Problem(_read_only(database), "the-database-is-read-only")
    for replica in database.replicas:
        if not replica.connected:
            yield Problem(
                _("The replica %(name)s is not connected"),
                "a-replica-is-missing-or-late",
                {"name": replica.name},
            )
        elif (replica.behind or 0) > BEHIND:
            yield Problem(
                _("The replica %(name)s has %(megabytes)s MB to catch up"),
                "a-replica-is-missing-or-late",
                {"name": replica.name, "megabytes": (replica.behind or 0) // 10**6},
            )
    if database.connections > CONNECTIONS * database.max_connections:
        yield Problem(
            _("The database has %(number)s of %(maximum)s connections in use"),
            "connections-run-out",
            {"number": database.connections, "maximum": database.max_connections},
        )


def _read_only(database: Database) -> str:
    if not database.standby:
        return _("The database is read-only: default_transaction_read_only is on")
    if database.receives:
        return _("The database is read-only: this is a standby, whose primary is elsewhere")
    return _("The database is read-only: there is no primary")


def _of_instances(instances: list[Instance]) -> Iterator[Problem]:
    silent = [each for each in instances if (each.silent or 0) > SILENCE]
    if silent:
        seconds = max(each.silent or 0 for each in silent)
        yield _problem(_SILENT, "an-instance-is-silent", silent, seconds=seconds)
    heard = [each for each in instances if each not in silent]
    for reason in sorted({each.told.reasons for each in heard if each.told.reasons}):
        same = [each for each in heard if each.told.reasons == reason]
        yield _problem(_NOT_READY, "an-instance-is-not-ready", same, reason=reason)
    for reason in sorted({each.told.degraded for each in heard if each.told.degraded}):
        same = [each for each in heard if each.told.degraded == reason]
        yield _problem(_DEGRADED, "a-storage-of-files-fails", same, reason=reason)
    dumb = [each for each in heard if not each.told.name]
    if dumb:
        yield _problem(_TELLS_NOTHING, "an-instance-tells-nothing", dumb)
    versions = {each.told.versions for each in heard if each.told.name}
    if len(versions) > 1:
        yield Problem(
            _("The instances run different versions: %(versions)s"),
            "instances-run-different-versions",
            {"versions": "; ".join(sorted(versions))},
            urgent=False,
        )


def _problem(text: str, section: str, instances: list[Instance], **values: object) -> Problem:
    names = ", ".join(each.name for each in instances)
    return Problem(text, section, {"names": names, **values})


def _of_caches(overview: Overview) -> Iterator[Problem]:
    section = "a-cache-takes-no-purges"
    for cache in overview.caches:
        values = {"url": cache.url, "number": cache.queued}
        if cache.down:
            text = _("The cache %(url)s does not answer: %(number)s purges wait")
            yield Problem(text, section, values)
        elif cache.refuses:
            text = _("The cache %(url)s refuses purges: it may hold former images")
            yield Problem(text, section, values)
    waiting = [each for each in overview.instances if each.told.purges and not each.here]
    if waiting:
        text = _("%(names)s: purges wait for a cache that does not answer")
        yield _problem(text, section, waiting)


def _of_drained(instances: list[Instance]) -> Iterator[Problem]:
    drained = [each for each in instances if each.told.draining]
    if drained:
        problem = _problem(_DRAINING, "an-instance-is-being-drained", drained)
        yield replace(problem, urgent=False)
