"""Why a process should be restarted, although it serves."""

import logging

from cubicweb.cwconfig import CubicWebConfiguration

log = logging.getLogger(__name__)

_KEY = "_hasite_restart"


def advise(config: CubicWebConfiguration, reason: str) -> None:
    """Note why this process of an instance should be restarted; an empty reason ends that."""
    if reason and reason != advice(config):
        log.warning("restart this instance: %s", reason)
    setattr(config, _KEY, reason)


def advice(config: CubicWebConfiguration) -> str:
    """Return the reason, empty if there is none."""
    reason: str = getattr(config, _KEY, "")
    return reason
