"""How gunicorn runs the instance in a container, as on a rendered host.

gunicorn reads the environment too: `FORWARDED_ALLOW_IPS` for the addresses of proxies whose
headers it believes, `GUNICORN_CMD_ARGS` for the rest.
"""

import os

from cubicweb_hasite.deploy import limits

bind = f"0.0.0.0:{os.environ['CW_PORT']}"
# one process, so that balancers and monitors see its state
workers = 1
worker_class = "gthread"
threads = 4
# seconds, longer than balancers and caches keep an idle connection
keepalive = 75
# seconds that a stop waits for requests in flight
graceful_timeout = 30
# in memory: on a slow disk the worker would seem to be dead
worker_tmp_dir = "/dev/shm"
limit_request_line = limits.REQUEST_LINE
limit_request_field_size = limits.FIELD
limit_request_fields = limits.FIELDS
