"""Checks of what Patroni and PostgreSQL read."""

import re
import shutil
from pathlib import Path

from cubicweb_hasite.deploy.programs import Answer, Host, NotInstalled, examine_file, write

# Patroni tries the addresses, which are not those of this network. So no connection is made: its
# own addresses are found free, the others are not reached.
_NO_NETWORK = "import socket\nsocket.socket.connect_ex = lambda self, address: 1\n"
# errors of this machine: an address is not reached, there is no IPv6
_NOT_REACHED = re.compile(r" didn't pass validation: ('\S+ is not reachable'|\[Errno \d+\] .*)$")
_DATABASE_PROGRAMS = [
    "initdb",
    "pg_basebackup",
    "pg_controldata",
    "pg_ctl",
    "pg_isready",
    "pg_rewind",
    "postgres",
]
_RIGHT_PATRONI = """\
scope: right
name: right
restapi:
  listen: 192.0.2.1:8008
  connect_address: 192.0.2.1:8008
etcd3:
  hosts: [192.0.2.1:2379]
postgresql:
  listen: 192.0.2.1:5432
  connect_address: 192.0.2.1:5432
  data_dir: {data}
  bin_dir: {programs}
  authentication:
    superuser: {{username: postgres}}
    replication: {{username: replicator}}
    rewind: {{username: rewind}}
"""


def patroni(host: Host, path: Path) -> str:
    """Check a copy with other folders of PostgreSQL: an empty one for data, one with programs."""
    write(host.scratch / "sitecustomize.py", _NO_NETWORK)
    folders = {"data": host.scratch / "no-data", "programs": host.scratch / "postgresql"}
    folders["programs"].mkdir(exist_ok=True)
    for program in _DATABASE_PROGRAMS:
        (folders["programs"] / program).touch(mode=0o755)
    text = path.read_text()
    for key, folder in (("data_dir", folders["data"]), ("bin_dir", folders["programs"])):
        text = re.sub(rf"(?m)^( +{key}:) .*$", rf"\1 {folder}", text)

    def ask(file: Path) -> Answer:
        environment = {"PYTHONPATH": str(host.scratch)}
        answer = host.run("patroni", "--validate-config", file, env=environment)
        wrong = [line for line in answer.lines if not _NOT_REACHED.search(line)]
        return Answer(answer.refused and bool(wrong), wrong if answer.refused else [])

    examine_file(host, host.copy(path, text), ask, _RIGHT_PATRONI.format(**folders))
    return "patroni --validate-config; addresses, folders of PostgreSQL: not checked"


def postgresql(host: Host, path: Path) -> str:
    """Check with PostgreSQL of the version that the path of the file names."""
    version = path.relative_to(host.root).parts[2]
    program = f"/usr/lib/postgresql/{version}/bin/postgres"
    if not Path(program).exists():
        program = shutil.which("postgres") or ""
        if not program or f" {version}." not in host.run(program, "--version").lines[0]:
            host.missing.append(f"PostgreSQL {version}")
            raise NotInstalled(f"PostgreSQL {version}")
    data = host.scratch / "data"
    write(data / "PG_VERSION", f"{version}\n")

    def ask(file: Path) -> Answer:
        answer = host.run(program, "-C", "port", "-D", data, "-c", f"config_file={file}")
        return Answer(answer.refused, answer.lines if answer.refused else [])

    examine_file(host, path, ask)
    return "postgres -C"
