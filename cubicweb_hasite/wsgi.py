"""The WSGI application of an instance: `cubicweb_hasite.wsgi:application("mysite")`.

It is the application of :mod:`cubicweb.pyramid`, with one clear line instead of a traceback of
sixty lines when the database is down.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from cubicweb import ConfigurationError, ExecutionError
from cubicweb.pyramid import wsgi_application

# Statuses of a worker at which its master ends too, so that the supervisor starts both again:
# uWSGI's UWSGI_FAILED_APP_CODE, with its option `need-app`, and gunicorn's WORKER_BOOT_ERROR.
_BOOT_ERROR = 22 if "uwsgi" in sys.modules else 3


def application(instance: str | None = None) -> Callable[..., Any]:
    """Return the application of an instance, by default of the one that `CW_INSTANCE` names.

    :raises SystemExit: the instance cannot start now. One line on the standard error says why.
    """
    name = instance or os.environ.get("CW_INSTANCE")
    try:
        if not name:
            raise ConfigurationError("no name was given; set the environment variable CW_INSTANCE")
        return wsgi_application(name)
    except (ConfigurationError, ExecutionError) as error:
        reason = str(error)
    except Exception as error:
        if type(error).__name__ != "OperationalError":  # psycopg2's, or that of another driver
            raise
        reason = f"cannot reach its database: {' '.join(str(error).split())}"
    print(f"instance {name or '?'} not started: {reason}", file=sys.stderr)
    raise SystemExit(_BOOT_ERROR)
