"""Options that the cube adds to the configuration of an instance."""

from cubicweb_hasite.__pkginfo__ import documentation

options = (
    (
        "hasite-image-max-age",
        {
            "type": "int",
            "default": 3600,
            "help": "for how long caches and browsers may keep an image without asking again, "
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
            "help": "for how long shared caches may keep the pages of anonymous visitors, in "
            "seconds, by the view that makes them, e.g. `index:10,primary:30`. Pages with a form, "
            "a message or a login are never kept. The caches must tell anonymous visitors from "
            f"others: see {documentation}/operate.md.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-replace-always",
        {
            "type": "yn",
            "default": False,
            "help": "give a new eid to an image whose data is edited by whatever way: not by web "
            "forms alone, but by scripts, RQL and web services too, which must then not rely "
            "on the eid that they hold.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-probe-deadline",
        {
            "type": "float",
            "default": 2.0,
            "help": "after how many seconds without an answer of the database "
            "monitor_db and monitor_version answer ServiceKO.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-pool-timeout",
        {
            "type": "float",
            "default": 2.0,
            "help": "for how many seconds a request waits for a connection to the database while "
            "all those of the pool are in use (connections-pool-max-size); then it is answered "
            "503, and may be tried again.",
            "group": "hasite",
            "level": 2,
        },
    ),
    (
        "hasite-remember-source-lines",
        {
            "type": "yn",
            "default": True,
            "help": "look up once in which line of its source a controller is defined, not at "
            "each request: CubicWeb logs it, at half of the cost of a page.",
            "group": "hasite",
            "level": 3,
        },
    ),
    (
        "hasite-remember-options",
        {
            "type": "yn",
            "default": True,
            "help": "look up once what the environment says of an option, not at each use: "
            "up to 7 % of the cost of a page. No to change CW_ variables in a running process.",
            "group": "hasite",
            "level": 3,
        },
    ),
    (
        "hasite-load-users-at-once",
        {
            "type": "yn",
            "default": True,
            "help": "ask for the groups and the properties of a visitor by one SQL query, not by "
            "two of RQL, and in SQL what he owns: up to 10 % of the cost of a page.",
            "group": "hasite",
            "level": 3,
        },
    ),
    (
        "hasite-look-up-rdf-on-demand",
        {
            "type": "yn",
            "default": True,
            "help": "fetch an entity for its RDF only where RDF is asked for, not twice for each "
            "of its pages: 8 % of the cost of such a page.",
            "group": "hasite",
            "level": 3,
        },
    ),
    (
        "hasite-instance-name",
        {
            "type": "string",
            "default": "",
            "help": "what monitor_hostname answers, by default the name of the host. Where a host "
            "runs several processes each may be given its own, such as web1:8081 "
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
            "help": "where the caches in front of the site are, e.g. `http://10.0.0.1:3128/`: "
            "they are sent PURGE requests for the URLs of an image that was changed or deleted. "
            "They must allow them to the hosts of the instance, and to nobody else.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-monitor-access",
        {
            "type": "string",
            "default": "open",
            "help": "who may ask the monitors on the port of visitors: `open`, everybody, but for "
            "metrics and JSON which need the token; `token`, who gives the token; "
            "`closed`, nobody: they are on the management port alone.",
            "group": "hasite",
            "level": 1,
        },
    ),
    (
        "hasite-monitor-token",
        {
            "type": "string",
            "default": "",
            "help": "what to give as `Authorization: Bearer <token>`, or `?token=<token>`, to ask "
            "the monitors on the port of visitors for what is not open.",
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
            "0: none. Each process of the instance needs another "
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
            "help": "address on which the management port listens. It must be one that visitors "
            "do not reach.",
            "group": "hasite",
            "level": 2,
        },
    ),
)
