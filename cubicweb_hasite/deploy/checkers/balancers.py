"""Checks of what HAProxy and keepalived read."""

import grp
import os
import pwd
import re
from pathlib import Path

from cubicweb_hasite.deploy.programs import (
    NOBODY,
    Answer,
    Host,
    NotChecked,
    examine,
    examine_file,
    write,
)

_RIGHT_HAPROXY = """\
frontend right
    mode http
    timeout client 1s
    bind 127.0.0.1:65535
"""


def haproxy(host: Host, path: Path) -> str:
    """Check both files of HAProxy together, since it reads them as one."""
    said = "haproxy -c"
    texts = {name: (path.parent / name).read_text() for name in ("haproxy.cfg", "hasite.cfg")}
    root = ""
    certificates = sorted(set(re.findall(r'"\$\{HASITE_ROOT\}([^"]+)"', texts["hasite.cfg"])))
    if not all(_certificate_is_here(Path(certificate)) for certificate in certificates):
        root = str(host.scratch / "certificates")
        try:
            for certificate in certificates:
                _throwaway_certificate(host, Path(root + certificate))
            said += f"; {', '.join(certificates)}: another one, it is not here"
        except NotChecked as error:
            texts["hasite.cfg"] = re.sub(r" ssl alpn .*", "", texts["hasite.cfg"])
            said += f"; TLS: not checked, {error}"
    for keyword, number, exists in [
        ("user", "uid", _user_exists),
        ("group", "gid", _group_exists),
    ]:
        found = re.search(rf"(?m)^( +){keyword} (\S+)$", texts["haproxy.cfg"])
        if found and not exists(found[2]):
            line = f"{found[1]}{number} {NOBODY}"
            texts["haproxy.cfg"] = texts["haproxy.cfg"].replace(found[0], line)
            said += f"; the {keyword} {found[2]}: another one, it is not here"

    def ask(folder: Path) -> Answer:
        return host.run("haproxy", "-c", "-q", "-f", folder, env={"HASITE_ROOT": root})

    def right() -> Path:
        return write(host.scratch / "right-haproxy" / "haproxy.cfg", _RIGHT_HAPROXY).parent

    copies = [host.copy(path.parent / name, text) for name, text in texts.items()]
    examine(ask, copies[0].parent, right)
    return said


def _user_exists(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


def _group_exists(name: str) -> bool:
    try:
        return bool(grp.getgrnam(name))
    except KeyError:
        return False


def _certificate_is_here(path: Path) -> bool:
    """Return whether HAProxy can read a certificate and its key."""
    try:
        if "PRIVATE KEY-----" in path.read_text():
            return True
    except (OSError, UnicodeDecodeError):
        return False
    return os.access(f"{path}.key", os.R_OK)


def _throwaway_certificate(host: Host, path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", f"{path}.key", "-out", str(path)]
    answer = host.run("openssl", "req", "-x509", *key, "-days", "1", "-subj", "/CN=hasite", *files)
    if answer.refused:
        host.missing.append("openssl")
        raise NotChecked(f"openssl makes no certificate here: {answer.lines[-1]}")


# errors of this machine
_NO_INTERFACE = re.compile("doesn't exist$|^Non-existent interface")


def keepalived(host: Host, path: Path) -> str:
    """Check with a copy where the script is run by the user who runs keepalived.

    keepalived that root runs ends by a signal, whatever is in the file. If another user runs it,
    who cannot become the user of the script, it says that the script is insecure.
    """
    said = "keepalived -t"
    user = _ordinary_user()
    text = path.read_text()
    found = re.search(r"(?m)^( +script_user )(\S+)$", text)
    if found and found[2] != user.pw_name:
        text = text.replace(found[0], found[1] + user.pw_name)
        said += f"; the user {found[2]} of its script: another one"
    no_interface = False

    def ask(file: Path) -> Answer:
        nonlocal no_interface
        number = user.pw_uid if os.geteuid() == 0 else None
        answer = host.run("keepalived", "-t", "-f", file, user=number)
        if any(line.startswith("Config files missing") for line in answer.lines):
            raise NotChecked(f"the user {user.pw_name} cannot read {file}")
        if not answer.refused:
            return Answer(False, [])
        wrong = [line for line in answer.lines if not _NO_INTERFACE.search(line)]
        no_interface = wrong != answer.lines
        return Answer(bool(wrong), wrong)

    examine_file(host, host.copy(path, text), ask, "global_defs {\n}\n")
    return said + ("; its network interface: not here" if no_interface else "")


def _ordinary_user() -> pwd.struct_passwd:
    """Return the user of this process or, for root, a user without rights."""
    try:
        return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise NotChecked("no user is here who could run keepalived") from None
