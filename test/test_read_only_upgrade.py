"""An upgrade that the running version cannot serve: visitors read from a standby meanwhile."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from rehearsing import Production
from servers.load import Load
from servers.network import local_addresses
from servers.visitor import Visitor
from test_upgrade import PAGES, REHEARSE, VISITORS, Site, by_hand, release, served

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root adds addresses")

#: addresses of this machine, as those of two hosts: that of loopback may be that of one alone
_HOSTS = ("10.93.19.1", "10.93.19.2")

_DATABASE = f"""
read_standbys = true

[hosts.db2]
address = "{_HOSTS[1]}"
roles = ["database"]
memory = 1
"""

#: a migration that locks a table for some seconds, and takes away what the running version needs
_MIGRATION = """
import os
add_attribute("News", "summary")
add_cube("tag")
commit()
sql("LOCK TABLE cw_news IN ACCESS EXCLUSIVE MODE")
sql("SELECT pg_sleep({seconds})")
sql("ALTER TABLE cw_file DROP COLUMN cw_title")
commit()
assert not os.path.exists("{folder}/fail"), "half-way"
"""


@pytest.fixture
def site(server_directory: Callable[[str], Path]) -> Iterator[Site]:
    """A production whose second database node is read, of which each test has its own."""
    with (
        local_addresses(*_HOSTS),
        Production(server_directory("production"), _HOSTS).running() as production,
    ):
        site = Site(production, server_directory("site"), database=_DATABASE)
        release(site.folder, _MIGRATION.format(seconds=6, folder=site.folder))
        # a page that takes as long as the table is locked is no reason against a rolling upgrade
        toml = site.folder / "site.toml"
        toml.write_text(toml.read_text().replace("longest_wait = 30", "longest_wait = 3"))
        with served(site):
            yield site


def rehearsed(site: Site) -> tuple[str, str]:
    """Rehearse; return the name of the rehearsal and its report."""
    output = site.run(REHEARSE)
    [rehearsal] = site.folder.glob("rehearsal-*")
    assert output.endswith(f"read-only: see {rehearsal}/report.html\n"), output
    return rehearsal.name, (rehearsal / "report.md").read_text()


def upgrade(site: Site, name: str) -> subprocess.CompletedProcess[str]:
    return site.hasite("upgrade", "site.toml", "--runbook", name, "--yes")


def version(site: Site) -> str:
    text = requests.get(f"{site.running.url}view?vid=monitor_version", timeout=30).text
    return re.search(r"hasite_news: ([\d.]+)", text)[1]


def test_upgrade(site: Site) -> None:
    """No page fails; afterwards forms are accepted, and the standby follows the primary."""
    name, report = rehearsed(site)
    assert "**The site can be read during the upgrade; forms are refused for about" in report
    assert "column cw\\_file.cw\\_title dropped: the running version uses it" in report
    with Load(site.running.url, PAGES, rate=VISITORS) as load:
        load.wait_for(2 * VISITORS)
        result = upgrade(site, name)
        load.wait_for(2 * VISITORS)
    assert result.returncode == 0, result.stdout
    assert set(load.outcomes) == {"200"}, (load.outcomes, result.stdout)
    assert load.outcomes["200"] > 10 * VISITORS
    assert version(site) == "0.2.0"
    visitor = Visitor(site.running.url)
    visitor.login()
    assert visitor.create("News", {"title": "after"}).status_code == 303
    paused = site.production.standby.sql("SELECT pg_get_wal_replay_pause_state()")
    assert paused == "not paused"


def test_upgrade_that_is_given_up(site: Site) -> None:
    """The site is as it was before a migration that has failed half-way."""
    name, report = rehearsed(site)
    visitor = Visitor(site.running.url)
    visitor.login()
    assert visitor.create("News", {"title": "the last one"}).status_code == 303
    before = site.production.contents()
    (site.folder / "fail").touch()
    with Load(site.running.url, PAGES, rate=VISITORS) as load:
        result = upgrade(site, name)
        load.wait_for(2 * VISITORS)
        assert result.returncode == 1
        assert "half-way" in result.stdout, result.stdout
        assert "see “Rollback” at the end of the runbook" in result.stdout
        assert set(load.outcomes) == {"200"}, (load.outcomes, result.stdout)
        assert visitor.post("login", {"__login": "admin"}).status_code == 503
    assert site.production.contents() != before
    by_hand(site, report.partition("### Rollback")[2])
    production = site.production
    assert not production.primary.running
    production.primary, production.standby = production.standby, production.primary
    assert production.contents() == before
    assert version(site) == "0.1.0"
    assert visitor.create("News", {"title": "after"}).status_code == 303
