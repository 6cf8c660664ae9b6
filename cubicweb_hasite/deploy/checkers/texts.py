"""Checks of scripts, environments and certificates."""

from pathlib import Path

from cubicweb_hasite.deploy.programs import Host, Refused, accepts, examine_file


def shell(host: Host, path: Path) -> str:
    """Check a script, or a file of variables that systemd or a script reads."""
    examine_file(host, path, accepts(host, "sh", "-n"))
    return "sh -n"


def python(_host: Host, path: Path) -> str:
    """Check a script of Python."""
    try:
        compile(path.read_text(), path.name, "exec")
    except (SyntaxError, ValueError) as error:
        raise Refused(str(error)) from None
    return "Python's compiler"


def certificate(host: Host, path: Path) -> str:
    """Check that a certificate is one, and has not expired."""
    answer = host.run("openssl", "x509", "-noout", "-checkend", "0", "-in", path)
    if answer.refused:
        raise Refused("\n".join(answer.lines))
    return "openssl x509: not expired"
