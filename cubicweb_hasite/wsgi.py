"""The WSGI application of an instance, for gunicorn: `cubicweb_hasite.wsgi:application("mysite")`.

It is the application of :mod:`cubicweb.pyramid`, with one clear line instead of a traceback of
sixty lines when the database is down.
"""

import sys
from collections.abc import Callable
from typing import Any

from cubicweb import ConfigurationError, ExecutionError
from cubicweb.pyramid import wsgi_application

# gunicorn's WORKER_BOOT_ERROR: its master ends too, and the supervisor starts it again
_BOOT_ERROR = 3


def application(instance: str | None = None) -> Callable[..., Any]:
    """Return the application of an instance, by default of the one that `CW_INSTANCE` names.

    :raises SystemExit: the instance cannot start now. One line on the standard error says why.
    """
    try:
        return wsgi_application(instance)
    except (ConfigurationError, ExecutionError) as error:
        reason = str(error)
    except Exception as error:
        if type(error).__name__ != "OperationalError":  # psycopg2's, or that of another driver
            raise
        reason = f"cannot reach its database: {' '.join(str(error).split())}"
    print(f"instance {instance or 'of CW_INSTANCE'} not started: {reason}", file=sys.stderr)
    raise SystemExit(_BOOT_ERROR)
