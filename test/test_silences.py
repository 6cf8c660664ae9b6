"""What an upgrade causes is silenced at a real Alertmanager, and told again afterwards."""

import tomllib
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from servers.alerting import RenderedProgram
from servers.support import free_port, make_directory, wait_until

from cubicweb_hasite.deploy import document
from cubicweb_hasite.deploy.site import ALERTMANAGER_PORT, Site
from cubicweb_hasite.upgrades import silences

_CONFIGURATION = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


@pytest.fixture(scope="module")
def alertmanager() -> Iterator[RenderedProgram]:
    directory = make_directory()
    name = "prometheus-alertmanager"
    defaults = directory / "etc/default" / name
    defaults.parent.mkdir(parents=True)
    defaults.write_text('ARGS="--web.listen-address=here --cluster.listen-address="\n')
    (directory / "alertmanager.yml").write_text(_CONFIGURATION)
    more = [f"--storage.path={directory}/data", f"--config.file={directory}/alertmanager.yml"]
    with RenderedProgram(
        name, directory, ALERTMANAGER_PORT, directory, *more, address=own_address()
    ) as program:
        yield program


@pytest.fixture
def site(alertmanager: RenderedProgram) -> Site:
    return monitored_by(urlsplit(alertmanager.url).hostname)


def own_address() -> str:
    """Return an address of this machine that no other test has: Alertmanager's port is fixed."""
    port = free_port()
    return f"127.93.{port >> 8}.{port & 255}"


def monitored_by(address: str) -> Site:
    """Return the example, whose monitoring host is this machine, at an address."""
    text = document.example().replace('address = "10.0.0.41"', f'address = "{address}"')
    site = Site.model_validate(tomllib.loads(text))
    return site.model_copy(update={"upgrade": site.upgrade.model_copy(update={"reach": "sh -c"})})


def active(alertmanager: RenderedProgram) -> list[str]:
    """Return what the silences that count now match."""
    return [
        matcher["value"]
        for silence in alertmanager.get("/api/v2/silences")
        if silence["status"]["state"] == "active"
        for matcher in silence["matchers"]
        if matcher["name"] == "alertname"
    ]


@pytest.mark.parametrize("verdict", ["rolling", "read-only", "stopped"])
def test_silence_of_an_upgrade(site: Site, alertmanager: RenderedProgram, verdict: str) -> None:
    said: list[str] = []
    with silences.silenced(site, "mysite", "rehearsal-1", said.append, verdict=verdict):
        [names] = active(alertmanager)
        assert "HasiteInstanceDown" in names
        assert ("SiteUnreachable" in names) == (verdict == "stopped")
        assert ("ReplicationLag" in names) == (verdict == "read-only")
        assert "HostDown" not in names
    assert active(alertmanager) == []
    assert said == [
        "alerts of what the upgrade restarts are silenced at monitor",
        "alerts are told again",
    ]


def test_another_site_is_told(site: Site, alertmanager: RenderedProgram) -> None:
    """What is silenced for one site is mailed for another one."""
    alerts = [
        {"labels": {"alertname": "HasiteInstanceDown", "site": "mysite"}},
        {"labels": {"alertname": "HasiteInstanceDown", "site": "other"}},
        {"labels": {"alertname": "InstanceOutOfService", "proxy": "mysite"}},
        {"labels": {"alertname": "InstanceOutOfService", "proxy": "other"}},
        {"labels": {"alertname": "HostDown", "host": "db1"}},
    ]
    response = requests.post(f"{alertmanager.url}/api/v2/alerts", json=alerts, timeout=30)
    assert response.status_code == 200, response.text
    with silences.silenced(site, "mysite", "rehearsal-1", print, verdict="rolling"):
        wait_until(lambda: len(told(alertmanager, "suppressed")) == 2, "silenced alerts")
        assert told(alertmanager, "suppressed") == ["mysite", "mysite"]
        assert sorted(told(alertmanager, "active")) == ["db1", "other", "other"]


def told(alertmanager: RenderedProgram, state: str) -> list[str]:
    """Return the sites or hosts of the alerts in a state."""
    return [
        alert["labels"].get("site") or alert["labels"].get("proxy") or alert["labels"]["host"]
        for alert in alertmanager.get("/api/v2/alerts")
        if alert["status"]["state"] == state
    ]


def test_upgrade_that_fails(site: Site, alertmanager: RenderedProgram) -> None:
    """They are told again."""

    def fail() -> None:
        with silences.silenced(site, "mysite", "rehearsal-1", print, verdict="rolling"):
            assert active(alertmanager)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert active(alertmanager) == []


def test_alertmanager_that_does_not_answer() -> None:
    """It is said, and the upgrade goes on."""
    site = monitored_by(own_address())
    said: list[str] = []
    done = False
    with silences.silenced(site, "mysite", "rehearsal-1", said.append, verdict="rolling"):
        done = True
    assert done
    assert said == [
        "no Alertmanager answers on monitor: alerts are not silenced, and the upgrade goes on"
    ]


def test_site_without_alerts(site: Site) -> None:
    said: list[str] = []
    without = site.model_copy(update={"alerts": None})
    with silences.silenced(without, "mysite", "rehearsal-1", said.append, verdict="rolling"):
        pass
    assert said == []
