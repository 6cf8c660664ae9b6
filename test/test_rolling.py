"""Instances stay ready while the database is upgraded under them to versions that they accept."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from servers.instance import CUBICWEB_CTL, Instance
from servers.support import wait_until


def ctl(site: Instance, *args: str) -> subprocess.CompletedProcess[str]:
    """Run hasite-accept."""
    command = [CUBICWEB_CTL, "hasite-accept", *args]
    return subprocess.run(command, env=site.environ(), capture_output=True, text=True)


@pytest.fixture
def site(server_directory: Callable[[str], Path], new_database: Callable) -> Instance:
    instance = Instance(server_directory("instance"), ["hasite", "file"], new_database())
    instance.create()
    return instance


def test_accept(site: Instance) -> None:
    def ready() -> int:
        return requests.get(f"{process.url}readyz", timeout=60).status_code

    def upgrade(cube: str, version: str) -> None:
        site.shell(
            f'key = "system.version.{cube}"\n'
            'if rql("Any P WHERE P is CWProperty, P pkey %(k)s", {"k": key}):\n'
            f'    rql("SET P value %(v)s WHERE P pkey %(k)s", {{"k": key, "v": "{version}"}})\n'
            "else:\n"
            f'    create_entity("CWProperty", pkey=key, value="{version}")\n'
            "\ncommit()\n"
        )

    with site.process(hasite_probe_deadline=20) as process:
        text = requests.get(f"{process.url}view?vid=monitor_version", timeout=60).text
        versions = text.partition("FS config ")[2].partition(" ==")[0]
        installed = versions.partition("hasite: ")[2].partition(" ")[0]
        assert ready() == 200
        accepted = versions.replace(f"hasite: {installed}", "hasite: 90.2.0")
        result = ctl(site, site.name, accepted)
        assert (result.returncode, result.stdout) == (0, f"site accepts {accepted}\n")
        upgrade("hasite", "90.1.0")  # on its way
        assert ready() == 200
        upgrade("hasite", "90.2.0")
        assert ready() == 200
        assert "ServiceKO" in requests.get(f"{process.url}view?vid=monitor_version").text
        upgrade("hasite", "90.2.1")
        assert ready() == 503
        upgrade("hasite", "90.2.0")
        assert ready() == 200
        result = ctl(site, "--undo", site.name)
        assert result.returncode == 0
        wait_until(lambda: ready() == 503, "versions that are not accepted")
    journal = (site.directory / "site" / "journal.md").read_text()
    assert "| hasite-accept site | accepts cubicweb: " in journal


@pytest.mark.parametrize("arguments", [["site"], ["site", "5"], ["site", "--undo", "a: 1"]])
def test_nonsense(site: Instance, arguments: list[str]) -> None:
    result = ctl(site, *arguments)
    assert result.returncode != 0
    assert "hasite-accept: " in result.stdout
    assert not list(site.directory.glob("*.accepted"))
