"""Check of what pgBackRest reads."""

import re
from pathlib import Path

from cubicweb_hasite import names
from cubicweb_hasite.deploy.programs import Answer, Host, examine_file

# Errors 27 to 39 are those of its options, by pgBackRest's src/build/error/error.yaml; it says the
# rest of a file for an option that it does not know, with a warning.
_WRONG = re.compile(r"ERROR: \[0(2[789]|3\d)\]|WARN: configuration file contains")
_ERROR = re.compile(r"ERROR: \[\d+\]")
_RIGHT = """\
[global]
tls-server-address=192.0.2.1
tls-server-ca-file=/etc/pgbackrest/ca.crt
tls-server-cert-file=/etc/pgbackrest/host.crt
tls-server-key-file=/etc/pgbackrest/host.key
tls-server-auth=192.0.2.2=hasite
repo1-retention-full=4
log-level-file=off
[hasite]
pg1-path=/var/lib/postgresql/15/main
"""


def pgbackrest(host: Host, path: Path) -> str:
    """Check the options of the commands that the hosts run, none of which gets beyond them.

    What they would work on is not there: an empty folder instead of the repository and of the
    database, no certificate.
    """
    nothing = host.scratch / "nothing"
    nothing.mkdir(exist_ok=True)
    options = [f"--config-include-path={nothing}", "--io-timeout=0.1"]
    options += ["--log-level-console=off", "--log-level-stderr=warn"]
    stanza = [*options, f"--stanza={names.STANZA}", f"--lock-path={nothing}"]

    server = [*options, "--tls-server-address=no address"]
    server += [f"--tls-server-cert-file={nothing}/none"]

    def ask(file: Path) -> Answer:
        commands = [
            [*server, "server"],
            [*stanza, "--repo1-local", f"--repo1-path={nothing}", "backup"],
            [*stanza, "--pg1-local", f"--pg1-path={nothing}", "archive-push", f"{nothing}/none"],
        ]
        if path.name == "beside.conf":  # for restorations alone
            commands = [
                [*stanza, f"--repo1-path={nothing}", f"--pg1-path={nothing}", "restore"],
            ]
        wrong = [line for arguments in commands for line in run(file, arguments)]
        return Answer(bool(wrong), list(dict.fromkeys(wrong)))

    def run(file: Path, arguments: list[str]) -> list[str]:
        words = [f"--config={file}", *arguments]
        lines = host.run("pgbackrest", *words, env={"PGBACKREST_REPO1_CIPHER_PASS": "none"}).lines
        if not any(map(_ERROR.search, lines)):
            # it does not say why it went no further: it does not work here
            return lines or ["pgbackrest says nothing"]
        return list(filter(_WRONG.search, lines))

    examine_file(host, path, ask, _RIGHT)
    return "pgbackrest, options alone"
