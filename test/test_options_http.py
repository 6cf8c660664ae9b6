"""Options of an instance that no other test sets, and their effects over HTTP."""

import re
from pathlib import Path

import pytest
import requests
from servers.instance import Instance
from servers.support import free_port
from servers.visitor import Visitor

from cubicweb_hasite import options, site_cubicweb


def test_each_option_is_set_in_a_test() -> None:
    """As an option of a process, of a configuration in the same process, or in a table."""
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    for name, _definition in site_cubicweb.options:
        as_argument = name.replace("-", "_") + "="
        pattern = rf'\b{as_argument}|"{name.replace("-", "_")}":|"{name}"[:,\]]'
        replaced = name in options.REPLACED_SPEED_UPS  # set below, by this list
        assert replaced or any(re.search(pattern, text) for text in texts), name


def test_instance_name(instance: Instance) -> None:
    with instance.process(hasite_instance_name="web7:8081") as process:
        response = requests.get(f"{process.url}view?vid=monitor_hostname", timeout=30)
    assert (response.status_code, response.text) == (200, "web7:8081")


def test_management_host(instance: Instance) -> None:
    """The management port listens on that address alone."""
    port = free_port()
    named = {"hasite_management_port": port, "hasite_management_host": "127.0.0.2"}
    with instance.process(**named):
        response = requests.get(f"http://127.0.0.2:{port}/livez", timeout=30)
        assert (response.status_code, response.text) == (200, "ServiceOK : alive")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{port}/livez", timeout=30)


@pytest.mark.parametrize("option", [*options.REPLACED_SPEED_UPS, "hasite-speed-ups"])
def test_without_speed_ups(instance: Instance, option: str) -> None:
    """Pages are served without a speed-up too. Which ones are off is tested in test_options.py."""
    with instance.process(**{option.replace("-", "_"): "no"}) as process:
        visitor = Visitor(process.url)
        visitor.login()
        page = visitor.get("")
        assert page.status_code == 200
        assert "admin" in page.text
