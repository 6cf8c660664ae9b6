"""Options with a value that makes no sense, and those that another option replaces."""

import logging
from typing import Any

import pytest
from cubicweb import ConfigurationError

from cubicweb_hasite import options, site_cubicweb

DEFAULTS = {name: definition["default"] for name, definition in site_cubicweb.options}
VIEWS = {"index", "primary"}


def test_defaults() -> None:
    options.check(DEFAULTS, VIEWS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"hasite-image-max-age": -1},
            "option hasite-image-max-age is -1: give 0 seconds",
        ),
        ({"hasite-pool-timeout": -0.5}, "option hasite-pool-timeout is -0.5: give 0 seconds"),
        ({"hasite-monitor-access": "all"}, "is 'all': give one of open, token, closed"),
        ({"hasite-monitor-access": "token"}, "is token: give the token in hasite-monitor-token"),
        (
            {"hasite-monitor-token": "pass word"},
            "hasite-monitor-token is not a Bearer token: ",
        ),
        ({"hasite-management-port": 65536}, "option hasite-management-port is 65536: give 0 to"),
        ({"hasite-page-max-age": ["index"]}, "option hasite-page-max-age is 'index': give a view"),
        ({"hasite-page-max-age": ["index:0"]}, "is 'index:0': give a view and 1 second or more"),
        ({"hasite-page-max-age": ["home:9"]}, "is for a view 'home': give views that exist"),
        ({"hasite-purge-urls": ["10.0.0.1:3128"]}, "is '10.0.0.1:3128': give URLs such as http"),
        ({"hasite-purge-urls": ["http://h:port/"]}, "is 'http://h:port/': give URLs such as http"),
        ({"hasite-purge-urls": ["http://[::1/"]}, "is 'http://[::1/': give URLs such as http"),
        ({"hasite-standby-hosts": ["db2:"]}, "hasite-standby-hosts is 'db2:': give hosts such as"),
        ({"hasite-standby-hosts": ["db2:70000"]}, "hasite-standby-hosts is 'db2:70000': give ho"),
        ({"hasite-standby-max-lag": 0.5}, "hasite-standby-max-lag is 0.5: give 1 to 60 seconds"),
        ({"hasite-standby-max-outage": -1}, "hasite-standby-max-outage is -1: give 0 seconds"),
        ({"hasite-s3-attributes": ["File"]}, "is File: give a type and an attribute, as File.dat"),
        ({"hasite-s3-prefix": "a#b/"}, "option hasite-s3-prefix is a#b/: give one without #"),
        ({"hasite-load-users-at-once": "off"}, "option hasite-load-users-at-once is 'off': give"),
    ],
)
def test_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        options.check(DEFAULTS | values, VIEWS)
    assert message in str(raised.value)


def test_no_secret_in_errors() -> None:
    with pytest.raises(ConfigurationError) as raised:
        options.check(DEFAULTS | {"hasite-monitor-token": "pass word"}, VIEWS)
    assert "pass word" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "off"),
    [
        ({}, set()),
        ({"hasite-speed-ups": False}, set(options.REPLACED_SPEED_UPS)),
        ({"hasite-remember-options": "no"}, {"hasite-remember-options"}),
        ({"hasite-remember-options": "yes"}, set()),
        (
            {"hasite-remember-options": "yes", "hasite-speed-ups": False},
            set(options.REPLACED_SPEED_UPS),
        ),
    ],
)
def test_speed_ups(values: dict[str, Any], off: set[str]) -> None:
    assert options.speed_ups(DEFAULTS | values) == set(options.REPLACED_SPEED_UPS) - off


def test_replaced_option_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, options.log.name)
    options.check(DEFAULTS, VIEWS)
    assert not caplog.messages
    options.check(DEFAULTS | {"hasite-remember-options": "yes"}, VIEWS)
    [message] = caplog.messages
    assert message.startswith("option hasite-remember-options is replaced by hasite-speed-ups")
