"""Checks of what Squid, Varnish and Apache read."""

import os
import re
from pathlib import Path

from cubicweb_hasite.deploy.programs import (
    NOBODY,
    Answer,
    Host,
    NotInstalled,
    accepts,
    examine_file,
)


def squid(host: Host, path: Path) -> str:
    """Check a copy that includes the other file of this folder, and gives Squid a name."""
    text = path.read_text()
    copy = re.sub(r"(?m)^include (/\S+)$", rf"include {host.root}\1", text)
    said = "squid -k parse" + ("; its include: that of this folder" if copy != text else "")
    if "visible_hostname" not in text:  # or Squid looks for the name of this machine
        copy += "visible_hostname hasite\n"
    # a service of its own, or Squid refuses where another one runs
    service = f"hasitecheck{os.getpid()}"

    def ask(file: Path) -> Answer:
        answer = host.run("squid", "-k", "parse", "-n", service, "-f", file)
        # some errors are in the text alone, with a status of 0; lines begin with the time
        lines = [line.partition("| ")[2] or line for line in answer.lines]
        wrong = [line for line in lines if re.search(r"ERROR|FATAL", line)]
        return Answer(answer.refused, wrong or (lines[-1:] if answer.refused else []))

    right = "visible_hostname right\nhttp_port 127.0.0.1:65535\n"
    examine_file(host, host.copy(path, copy), ask, right)
    return said


def varnish(host: Host, path: Path) -> str:
    """Let Varnish compile the file."""
    ask = accepts(host, "varnishd", "-C", "-n", str(host.scratch / "varnish"), "-f")
    examine_file(host, path, ask, "vcl 4.1;\nimport directors;\nbackend default none;\n")
    return "varnishd -C"


def apache(host: Host, path: Path) -> str:
    """Check a copy with another ServerRoot, if that folder is not here."""
    said = "apache2 -t; its folders of logs: others"
    program = host.find("apache2")
    text = path.read_text()
    for module in re.findall(r"(?m)^LoadModule \S+ (/\S+)$", text):
        if not Path(module).exists():
            raise NotInstalled(module)
    found = re.search(r"(?m)^ServerRoot (/\S+)$", text)
    if found and not Path(found[1]).is_dir():
        text = text.replace(found[0], f"ServerRoot {host.scratch}")
        said += f"; {found[1]}: another folder, it is not here"
    variables = {f"APACHE_{kind}_DIR": str(host.scratch) for kind in ("RUN", "LOG")}
    variables |= {f"APACHE_RUN_{kind}": f"#{NOBODY}" for kind in ("USER", "GROUP")}
    variables["APACHE_PID_FILE"] = str(host.scratch / "apache.pid")
    needed = [
        line for line in text.splitlines() if line.startswith(("LoadModule ", "ServerRoot "))
    ]
    right = "\n".join([*needed, f"ErrorLog {host.scratch}/error.log", "Listen 127.0.0.1:65535\n"])
    ask = accepts(host, program, "-t", "-f", env=variables)
    examine_file(host, host.copy(path, text), ask, right)
    return said
