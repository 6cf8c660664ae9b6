"""Checks of what Prometheus, Grafana and Nagios read."""

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from cubicweb_hasite.deploy.programs import (
    Answer,
    Host,
    Refused,
    accepts,
    examine,
    examine_file,
    write,
)


def prometheus(host: Host, path: Path) -> str:
    """Check the main file of Prometheus, and the rules that it names."""
    ask = accepts(host, "promtool", "check", "config")
    examine_file(host, path, ask, "global:\n  scrape_interval: 15s\n")
    return "promtool check config"


def rules(host: Host, path: Path) -> str:
    """Check rules of Prometheus."""
    examine_file(host, path, accepts(host, "promtool", "check", "rules"), "groups: []\n")
    return "promtool check rules"


_RIGHT_ALERTMANAGER = """\
route: {receiver: nobody}
receivers: [{name: nobody}]
templates: ["*.tmpl"]
"""


def alertmanager(host: Host, path: Path) -> str:
    """Check the main file of Alertmanager, and the templates that it names."""
    examine_file(host, path, accepts(host, "amtool", "check-config"), _RIGHT_ALERTMANAGER)
    return "amtool check-config"


def mail_template(host: Host, path: Path) -> str:
    """Check a template of mails, with a main file that names it."""

    def ask(file: Path) -> Answer:
        main = write(host.scratch / "main" / "alertmanager.yml", _RIGHT_ALERTMANAGER)
        write(main.with_name("mail.tmpl"), file.read_text())
        return accepts(host, "amtool", "check-config")(main)

    examine_file(host, path, ask)
    return "amtool check-config; its main file: another one"


def blackbox(host: Host, path: Path) -> str:
    """Check how the sites are visited."""

    def ask(file: Path) -> Answer:
        options = ("--config.check", f"--config.file={file}")
        answer = host.run("prometheus-blackbox-exporter", *options)
        if not answer.refused:
            return Answer(False, [])
        # what it says before has the time
        errors = [line[line.index("level=") :] for line in answer.lines if "level=error" in line]
        return Answer(True, errors or answer.lines)

    examine_file(host, path, ask, "modules: {}\n")
    return "prometheus-blackbox-exporter --config.check"


def dashboard(host: Host, path: Path) -> str:
    """Check the JSON of a dashboard, and its queries as rules of Prometheus."""
    try:
        panels = json.loads(path.read_text())["panels"]
        queries = [target["expr"] for panel in panels for target in panel["targets"]]
    except (ValueError, LookupError, TypeError) as error:
        raise Refused(f"it is no dashboard: {error!r}") from None
    rules = [{"record": f"q{index}", "expr": query} for index, query in enumerate(queries)]
    rule_file = host.copy(path, json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    examine_file(host, rule_file, accepts(host, "promtool", "check", "rules"), "groups: []\n")
    return "JSON; its queries: promtool check rules"


_RIGHT_NAGIOS = """\
define command {
    command_name right
    command_line /bin/true
}
define contact {
    contact_name                  right
    host_notification_commands    right
    service_notification_commands right
}
define host {
    host_name          right
    address            127.0.0.1
    check_command      right
    max_check_attempts 1
}
define service {
    host_name           right
    service_description right
    check_command       right
    max_check_attempts  1
    check_interval      1
    retry_interval      1
}
"""


def nagios_process(host: Host, path: Path) -> str:
    """Check the main file of Nagios and the objects that it names, with paths of this machine."""
    resources, others = host.scratch / "resource.cfg", host.scratch / "others"
    resources.touch()
    text = path.read_text().replace("=/etc/nagios4/resource.cfg", f"={resources}")
    text = text.replace("=/etc/", f"={host.root}/etc/")
    text = re.sub("(?m)^(nagios_(user|group))=.*", rf"\1={os.geteuid()}", text)
    for folder in re.findall(r"=(/(?:run|var)/\S+)", text):
        write(others / folder.lstrip("/") / "beside", "")
    text = re.sub("=(/(run|var)/)", rf"={others}\1", text)
    examine(
        partial(_nagios_errors, host),
        host.copy(path, text),
        lambda: _nagios_main(host, write(host.scratch / "right.cfg", _RIGHT_NAGIOS)),
    )
    return "nagios4 -v; its users and folders: others"


def nagios(host: Host, path: Path) -> str:
    """Check objects of Nagios, with a main file that names them."""

    def ask(file: Path) -> Answer:
        return _nagios_errors(host, _nagios_main(host, file))

    examine_file(host, path, ask, _RIGHT_NAGIOS)
    return "nagios4 -v; its main file: another one"


def _nagios_main(host: Host, objects: Path) -> Path:
    """Return a main file of Nagios that names a file of objects."""
    resources = host.scratch / "resource.cfg"
    resources.touch()
    settings: dict[str, Any] = {
        "cfg_file": objects,
        "nagios_user": os.geteuid(),
        "nagios_group": os.getegid(),
        "log_file": host.scratch / "nagios.log",
        "object_cache_file": host.scratch / "objects",
        "status_file": host.scratch / "status",
        "resource_file": resources,
        "check_result_path": host.scratch,
        "temp_path": host.scratch,
        "lock_file": host.scratch / "lock",
        "illegal_macro_output_chars": "`~$&|'\"<>",
    }
    lines = [f"{key}={value}\n" for key, value in settings.items()]
    return write(host.scratch / "nagios.cfg", "".join(lines))


def _nagios_errors(host: Host, main: Path) -> Answer:
    answer = accepts(host, "nagios4", "-v")(main)
    errors = [line for line in answer.lines if line.startswith("Error")]
    return Answer(answer.refused, errors or answer.lines)
