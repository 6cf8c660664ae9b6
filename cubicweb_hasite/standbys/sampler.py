"""A thread that asks all database nodes for their positions, and judges which may be read.

What a standby is proven to hold: the primary was asked at a time for its position, and the
standby has replayed the log up to there. So it holds all that was committed by that time. It is
fresh as of that time, by the clock of this process alone.
"""

import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cubicweb.server.repository import Repository

from cubicweb_hasite import options
from cubicweb_hasite.standbys import nodes, positions
from cubicweb_hasite.standbys.closing import Closing
from cubicweb_hasite.standbys.nodes import Node

log = logging.getLogger(__name__)

#: how often each node is asked, in seconds
INTERVAL = 0.25
#: how long a request waits for a standby that replays its visitor's last commit, or for the
#: primary to be known as lost, in seconds
PATIENCE = 1.0
#: how many positions of the primary are kept: more than the longest `hasite-standby-max-lag`
_KEPT = 600
# of the repository, so that it lives as long
_ATTRIBUTE = "_hasite_standbys"


class Standby:
    """A standby that may be read, and what is known of it. The thread writes, all read."""

    def __init__(self, node: Node) -> None:
        self.node = node
        #: the time, of `time.monotonic`, by which it holds all that was committed; 0: unknown
        self.fresh = 0.0
        #: whether it has more than the primary: it follows another one
        self.diverged = False

    @property
    def name(self) -> str:
        """`host:port`."""
        return self.node.name


class Sampler(threading.Thread):
    """The thread, and what it has found.

    :param max_lag: how much older than the primary what is read may be, in seconds
    :param max_outage: how long standbys are read after the primary was lost, in seconds
    """

    def __init__(self, repo: Repository, hosts: list[str], max_lag: float, max_outage: float):
        super().__init__(name="hasite-standbys", daemon=True)
        self._repo = repo
        self._max_lag = max_lag
        self._max_outage = max_outage
        #: called by the thread with a standby that is lost, or None if that is the primary
        self.on_loss: Callable[[Standby | None], None] = lambda standby: None
        self._primary_losses = 0
        helper = repo.system_source.dbhelper
        port = helper.dbport
        found: dict[tuple[str, str], Node] = {}

        def node(host: str, port: int | str | None) -> Node:
            key = host, str(port or 5432)
            if key not in found:
                arguments = nodes.dsn(repo.system_source, host, port)
                arguments += " application_name=hasite-standbys"
                found[key] = Node(f"{host or 'local'}:{key[1]}", arguments)
            return found[key]

        #: what `hasite-read-only` has ordered
        self.closing = Closing(repo.config)
        addresses = [options.standby(host) for host in hosts]
        #: those that may be read
        self.standbys = [Standby(node(host, own or port)) for host, own in addresses]
        self._entries = dict(zip(hosts, self.standbys, strict=True))
        #: host and port of each
        self.addresses = [(host, own or port) for host, own in addresses]
        for host in (helper.dbhost or "").split(","):
            node(host.strip(), port)
        self._nodes = list(found.values())
        self._losses = dict.fromkeys(self.standbys, 0)
        #: the node that writes, as it was seen last
        self.primary: Node | None = None
        self._origin: str | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_KEPT)
        self._changed = threading.Condition()

    @property
    def primary_up(self) -> bool:
        """Whether the primary has answered the last question."""
        return self.primary is not None and self.primary.sample is not None

    @property
    def asks_primary(self) -> bool:
        """Whether visits may be read from the primary: it answers, and nobody forbids it."""
        return self.primary_up and not self.closing.only

    @property
    def contact(self) -> float:
        """When the primary was asked last that has answered, of `time.monotonic`; 0: never."""
        return self._samples[-1][0] if self._samples else 0.0

    def lag(self, standby: Standby) -> float | None:
        """Return how old what a standby holds may be, in seconds; None if that is not known."""
        if not standby.fresh or standby.node.sample is None:
            return None
        return time.monotonic() - standby.fresh

    def problem(self, standby: Standby) -> str:
        """Return why a standby may not be read by anybody now; empty if it may."""
        sample, now = standby.node.sample, time.monotonic()
        if sample is None or now - sample.answered > nodes.DEADLINE + 2 * INTERVAL:
            return "lost"
        if only := self.closing.only:
            return "" if standby is self._entries[only] else "other"
        if not sample.recovering:
            return "promoted"
        if sample.origin is None or sample.origin != self._origin:
            return "timeline"
        if standby.diverged:
            return "diverged"
        contact = self.contact
        reference = now if self.primary_up else contact
        if not standby.fresh or reference - standby.fresh > self._max_lag:
            return "stale"
        over = not self.primary_up and now - contact > self._max_outage
        return "outage" if over else ""

    def has(self, standby: Standby, position: positions.Position | None) -> bool:
        """Return whether a standby has replayed all that a visitor has seen."""
        sample = standby.node.sample
        if position is None:
            return True
        return (
            sample is not None
            and sample.origin is not None
            and positions.timeline(sample.origin) == position.timeline
            and sample.lsn >= position.lsn
        )

    def wait(self, condition: Callable[[], object], timeout: float = PATIENCE) -> bool:
        """Wait until something is so that samples change; return whether it is.

        :param timeout: how long at most, in seconds
        """
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))

    @property
    def serves(self) -> bool:
        """Whether some standby may be read now."""
        return any(not self.problem(standby) for standby in self.standbys)

    # The thread runs what follows.

    def run(self) -> None:
        while not getattr(self._repo, "shutting_down", False):
            try:
                self._round()
            except Exception:  # visitors are served by the primary meanwhile
                log.exception("the database nodes were not asked")
                time.sleep(INTERVAL)

    def _round(self) -> None:
        import psycopg2

        started = time.monotonic()
        for node in self._nodes:
            node.ask(psycopg2.connect, started)
        self._judge()
        while (left := started + INTERVAL - time.monotonic()) > 0:
            open_ones: dict[int, Node] = {}
            for node in self._nodes:
                number = node.fileno()
                if number is not None:
                    open_ones[number] = node
            poll = select.poll()
            for number, node in open_ones.items():
                poll.register(number, select.POLLOUT if node.writes else select.POLLIN)
            for number, _event in poll.poll(left * 1000):
                node = open_ones[number]
                if node.advance(time.monotonic()):
                    self._note(node)
            for node in self._nodes:
                node.expire(time.monotonic())
            self._judge()

    def _note(self, node: Node) -> None:
        """Note the position of a primary."""
        sample = node.sample
        if sample is None or sample.recovering:
            return
        # a primary that was cut off knows nothing of the other one
        if self._origin is not None and sample.origin is not None:
            cluster, _slash, timeline = self._origin.partition("/")
            if sample.origin.startswith(f"{cluster}/") and sample.origin < f"{cluster}/{timeline}":
                return
        if self.primary is not node or sample.origin != self._origin:
            log.info("the primary is %s, of %s", node.name, sample.origin)
            with self._changed:
                self._samples.clear()
                self.primary, self._origin = node, sample.origin
                self._primary_losses = node.losses
                for standby in self.standbys:
                    standby.fresh = 0.0
        self._samples.append((sample.asked, sample.lsn))
        for standby in self.standbys:
            other = standby.node.sample
            if other is not None and other.recovering and other.answered < sample.asked:
                standby.diverged = other.origin == self._origin and other.lsn > sample.lsn

    def _judge(self) -> None:
        """Find by which time each standby holds everything, and who was lost."""
        if self.primary is not None:
            sample = self.primary.sample
            if sample is not None and sample.recovering:  # demoted
                self.primary.sample = None
        for standby in self.standbys:
            sample = standby.node.sample
            if self._losses[standby] != standby.node.losses:
                self._losses[standby] = standby.node.losses
                standby.fresh = 0.0
                self.on_loss(standby)
            if sample is None or not sample.recovering or sample.origin != self._origin:
                standby.fresh = 0.0
                continue
            for asked, lsn in reversed(self._samples):
                if asked <= standby.fresh:
                    break
                if lsn <= sample.lsn:
                    standby.fresh = asked
                    break
        losses = self.primary.losses if self.primary is not None else 0
        if self._primary_losses != losses:
            self._primary_losses = losses
            if not self.primary_up and self.serves:
                self.on_loss(None)
        self.closing.obey(
            lambda entry: self._entries[entry].fresh if entry in self._entries else -1
        )
        with self._changed:
            self._changed.notify_all()


def remember(repo: Repository, sampler: Sampler) -> None:
    """Let :func:`of` return a sampler."""
    vars(repo)[_ATTRIBUTE] = sampler


def of(repo: Any) -> Sampler | None:
    """Return the sampler of a repository, None if no standby is read (the default)."""
    return vars(repo).get(_ATTRIBUTE)
