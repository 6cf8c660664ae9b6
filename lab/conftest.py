"""Fixtures: the lab's site, well at the beginning of each scenario, and rows of RESULTS.md.

A lab that runs is used, and left running; else one is brought up, and down at the end.
"""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hosts import Lab
from installation import Site
from results import Results, versions
from traffic import Traffic

import lab

#: visitors of a scenario: some ten pages a second, for a machine of two busy processors
_RESULTS = pytest.StashKey[Results]()
_VISITORS = {"anonymous": 16, "users": 4, "editors": 2, "viewers": 4, "pause": 2}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", help="file to write what was measured to, in Markdown")


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[Results]:
    """What was measured in this session."""
    results = request.config.stash[_RESULTS] = Results()
    yield results
    if path := request.config.getoption("results"):
        results.write(Path(path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    report = yield
    if report.failed and _RESULTS in item.config.stash:
        item.config.stash[_RESULTS].failed.append(f"`{item.name}` ({report.when})")
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash.get(_RESULTS, Results())
    for row in results.rows:
        terminalreporter.write_line(" | ".join(row.cells()))


@pytest.fixture(scope="session")
def running_site(results: Results) -> Iterator[Site]:
    """The lab's site."""
    ours = Lab(lab.FOLDER).find("switch") is None
    if ours:
        lab.Lab(lab.FOLDER).down()
        lab.up()
    site = lab.running()
    results.started_in = site.lab.saved()["seconds"]
    results.versions = list(versions(site))
    yield site
    if ours:
        site.lab.down()


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    """The lab's site, with all its hosts and programs well."""
    running_site.wait_until_well()
    yield running_site
    running_site.repair()
    running_site.wait_until_well()


@pytest.fixture
def traffic(site: Site, tmp_path: Path) -> Iterator[Traffic]:
    """Visitors on the site, until the end of the scenario."""
    with Traffic(site, tmp_path / "outcomes", **_VISITORS) as traffic:
        yield traffic


@pytest.fixture
def new_traffic(site: Site, tmp_path: Path) -> Callable[..., Traffic]:
    """A function that returns other visitors, by their options."""
    return lambda **options: Traffic(site, tmp_path / "other", **options)
