"""Options that the cube adds to the configuration of an instance."""

from cubicweb_hasite.__pkginfo__ import documentation


def _replaced(spares: str) -> dict[str, object]:
    """Return the definition of an option that `hasite-speed-ups` replaces."""
    return {
        "type": "string",  # without a value, unlike one of type `yn`
        "default": None,
        "help": f"replaced by hasite-speed-ups. No: do not spare {spares}.",
        "group": "hasite",
        "level": 3,
    }


options = (
    (
        "hasite-image-max-age",
        {
            "type": "int",
            "default": 3600,
            "help": "how long caches and browsers may keep an image without asking again, "
            "in seconds. An edited image gets a new URL, so a long time is safe; "
            "with one year (31536000) responses are also marked `immutable`.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-page-max-age",
        {
            "type": "csv",
            "default": (),
            "help": "how long shared caches may keep the pages of anonymous visitors, in "
            "seconds, for each view, e.g. `index:10,primary:30`. Pages with a form, a message "
            "or a login are never kept. The balancer must send anonymous visitors to URLs of "
            f"their own: see {documentation}/caches.md.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-replace-always",
        {
            "type": "yn",
            "default": False,
            "help": "give an image a new eid however its data is edited: by scripts, RQL and web "
            "services too, not only by web forms. They must not use the former eid afterwards.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-password-ends-sessions",
        {
            "type": "yn",
            "default": True,
            "help": "when the password of a user changes, end the sessions that were opened with "
            "the former one, except for the one in which the user has changed it.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-edit-by-get",
        {
            "type": "yn",
            "default": False,
            "help": "let GET requests edit, as CubicWeb does, although it checks no CSRF token of "
            "theirs: a link on any site is then enough to edit in the name of a visitor. Only for "
            "an application that needs it.",
            "group": "hasite",
            "level": 3,
        },
    ),
    (
        "hasite-probe-deadline",
        {
            "type": "float",
            "default": 2.0,
            "help": "how long monitor_db and monitor_version wait for the database before they "
            "answer ServiceKO, in seconds.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-pool-timeout",
        {
            "type": "float",
            "default": 2.0,
            "help": "how long a request waits for a connection to the database when all "
            "connections of the pool are in use (connections-pool-max-size), in seconds. Then "
            "the answer is 503, and the visitor may try again.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-storage-deadline",
        {
            "type": "float",
            "default": 4.0,
            "help": "how long a download or an edit waits for the bucket of S3 where the data of "
            "files is kept (cubicweb-s3storage), in seconds, and one more for each MB. Then a "
            "download is 503, and an edit is refused with a message.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-s3-bucket",
        {
            "type": "string",
            "default": "",
            "help": "the bucket of S3 in which new data of files is kept, by the cube s3storage. "
            "Without it data is in the database, or where the application keeps it. The address "
            "of the object store and the key to it are in the environment "
            "(`AWS_S3_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`): see "
            f"{documentation}/storages.md.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-s3-prefix",
        {
            "type": "string",
            "default": "",
            "help": "what the names of objects in hasite-s3-bucket begin with, e.g. `mysite/`.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-s3-attributes",
        {
            "type": "csv",
            "default": ("File.data",),
            "help": "the attributes of type Bytes whose data is in hasite-s3-bucket.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-speed-ups",
        {
            "type": "yn",
            "default": True,
            "help": "spare each page what CubicWeb does again and again: finding a line number "
            "for its log, looking up options in the environment, RQL queries for the visitor and "
            "for each entity of a list, and fetching an entity for its RDF. That is half of the "
            "CPU time of a page. No: to compare with stock CubicWeb, or to change CW_ variables "
            "in a running process.",
            "group": "hasite",
            "level": 3,
        },
    ),
    ("hasite-remember-source-lines", _replaced("finding a line number for the log")),
    ("hasite-remember-options", _replaced("looking up options in the environment")),
    ("hasite-load-users-at-once", _replaced("RQL queries for the visitor")),
    ("hasite-look-up-rdf-on-demand", _replaced("fetching an entity for its RDF")),
    (
        "hasite-instance-name",
        {
            "type": "string",
            "default": "",
            "help": "what monitor_hostname answers, by default the name of the host. If a host "
            "runs several processes, give each its own name, such as web1:8081 "
            "(CW_HASITE_INSTANCE_NAME).",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-purge-urls",
        {
            "type": "csv",
            "default": (),
            "help": "the caches in front of the site, e.g. `http://10.0.0.1:3128/`. When an "
            "image is changed or deleted, they get PURGE requests for its URLs. They must accept "
            "PURGE from the hosts of the instance, and from nobody else.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-standby-hosts",
        {
            "type": "csv",
            "default": (),
            "help": "hot standbys of the database from which GET and HEAD are read, each a host "
            "with or without a port, e.g. `db2,db3:5433`. They are connected to as the primary "
            f"is. See {documentation}/standbys.md. Empty: everything is read from the primary.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-standby-max-lag",
        {
            "type": "float",
            "default": 5.0,
            "help": "how far behind the primary a standby may be that is read, in seconds, "
            "from 1 to 60.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-standby-max-outage",
        {
            "type": "float",
            "default": 3600.0,
            "help": "how long standbys are read while the primary cannot be reached, in seconds. "
            "They must have been fresh when it was lost. After that, pages answer 503.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-monitor-access",
        {
            "type": "string",
            "default": "open",
            "help": "who may use the monitors on the port of visitors. `open`: everybody, but "
            "metrics and JSON need the token; `token`: clients that send the token; "
            "`closed`: nobody, the monitors answer only on the management port.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-monitor-token",
        {
            "type": "string",
            "default": "",
            "help": "the token that protected monitors need on the port of visitors, sent as "
            "`Authorization: Bearer <token>` or `?token=<token>`.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-management-port",
        {
            "type": "int",
            "default": 0,
            "help": "TCP port where the monitors answer without a token, on threads of their own; "
            "0: none. Each process of the instance needs its own port "
            "(CW_HASITE_MANAGEMENT_PORT).",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-management-host",
        {
            "type": "string",
            "default": "127.0.0.1",
            "help": "address on which the management port listens. Visitors must not be able to "
            "reach it.",
            "group": "hasite",
            "level": 2,
        },
    ),
)
