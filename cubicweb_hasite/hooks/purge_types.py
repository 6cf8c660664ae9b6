"""Purge caches of all entities of a type of which somebody may read fewer than before.

Each process does so once it refuses them itself: until then it may give caches what they were to
forget. The one that changes the permissions does it after its commit, the others when they have
read them again (:mod:`cubicweb_hasite.coherence.listener`).
"""

import logging
from collections.abc import Collection

from cubicweb.server import hook
from cubicweb.server.repository import Repository
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import SQL_PREFIX

from cubicweb_hasite import options
from cubicweb_hasite.caches import page_urls, purge
from cubicweb_hasite.coherence import memory
from cubicweb_hasite.hooks import CATEGORY, page_adapters
from cubicweb_hasite.hooks.purge import immutable_entity

log = logging.getLogger(__name__)

#: of how many entities the paths are queued at once
BATCH = 500
#: how long a batch waits for caches before the next one is queued, in seconds
_WAIT = 30.0
_AFTER_ALL = 2**31


class PurgeTypesHook(hook.Hook):
    """Purge a type when a permission to read it, or a part of it, is taken away."""

    __regid__ = "hasite.purge_types"
    __select__ = hook.Hook.__select__ & hook.match_rtype("read_permission")
    events = ("before_delete_relation",)
    category = CATEGORY

    def __call__(self) -> None:
        operation = PurgeTypesOp.get_instance(self._cw)
        for etype in memory.types(self._cw.repo, self.eidfrom):
            operation.add_data(etype)


class PurgeTypesOp(hook.DataOperationMixIn, hook.LateOperation):
    """Purges after the commit. Its data are the names of types."""

    def postcommit_event(self) -> None:
        start(self.cnx.repo, self.get_data())


def start(repo: Repository, etypes: Collection[str]) -> None:
    """Purge all entities of types from the caches, in a thread; return at once.

    :param etypes: names of types; those that are gone are ignored
    """
    if etypes and purge.purgers(repo.config):
        repo.threaded_task(lambda: _purge(repo, etypes))


def _purge(repo: Repository, etypes: Collection[str]) -> None:
    for etype in sorted(etypes):
        before = _AFTER_ALL
        while etype in repo.schema and not repo.shutting_down:
            with repo.internal_cnx() as cnx:
                eids = _eids(cnx, etype, before)
                paths = _paths(cnx, etype, eids)
            if not eids:
                break
            for purger in purge.purgers(repo.config):
                purger.add(paths)
                # one that is down keeps as much as it can; another one is not to wait for it
                purger.flush(_WAIT)
            before = eids[-1]
        log.info("caches were told to forget all of %s", etype)


def _eids(cnx: Connection, etype: str, before: int) -> list[int]:
    """Return the eids of a batch, the newest first: these are visited most."""
    cursor = cnx.system_sql(
        f"SELECT {SQL_PREFIX}eid FROM {SQL_PREFIX}{etype} WHERE {SQL_PREFIX}eid < %(before)s "
        f"ORDER BY 1 DESC LIMIT {BATCH}",
        {"before": before},
    )
    return [eid for (eid,) in cursor.fetchall()]


def _paths(cnx: Connection, etype: str, eids: list[int]) -> set[str]:
    """Return the paths of the data of entities and, if caches keep pages, of these."""
    config = cnx.vreg.config
    shared = bool(options.page_ages(config))
    shows_pages = shared or bool(page_adapters.adapters(cnx, etype))
    urls, pages = {}, page_adapters.Pages()
    for eid in eids:
        found = immutable_entity(cnx, eid)
        if found is not None:
            urls[eid] = purge.entity_urls(found)
        if shows_pages:
            pages.add(page_adapters.pages(cnx, eid))
    paths = purge.paths(cnx, urls) if urls else set()
    paths |= page_urls.paths(cnx, pages.own)
    return paths | (page_urls.anonymous_paths(cnx, pages.shared) if shared else set())
