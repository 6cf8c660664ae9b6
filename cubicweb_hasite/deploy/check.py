"""Have the programs that will read the rendered files check them.

The files name paths of their hosts, which this machine may not have. Programs with options for
that are given others; a squid.conf is read from a copy where its `include` is that of the copy;
certificates that are not here are replaced by one that is thrown away. Each is said in the table.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from cubicweb_hasite.deploy.output import MANIFEST

Verdict = Literal["ok", "WRONG", "not checked"]
_TIMEOUT = 60
_SYSTEM_UNITS = Path("/lib/systemd/system")


class CheckError(Exception):
    """Why nothing was checked."""


@dataclass(frozen=True)
class Result:
    """What is known of a file: `detail` says by which program, or why not, or what is wrong."""

    path: str
    verdict: Verdict
    detail: str


class _NotInstalled(Exception):
    pass


@dataclass(frozen=True)
class _Host:
    """The files of one host.

    :param root: a copy of them, readable by everybody, to which things may be added
    :param scratch: an empty folder that everybody may write to
    """

    root: Path
    scratch: Path

    def run(self, program: str, *args: str | Path, user: str | None = None, **env: str) -> str:
        """Run a program that finds nothing wrong, and return what it prints.

        :raises _NotInstalled: it is not here.
        :raises ValueError: it finds something wrong, or does not end.
        """
        folders = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/postgresql/*/bin"]
        path = os.pathsep.join(str(f) for p in folders for f in (_expand(p) if "*" in p else [p]))
        executable = shutil.which(program, path=path)
        if executable is None:
            raise _NotInstalled(program)
        try:
            process = subprocess.run(
                [executable, *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.scratch,
                env={**os.environ, "LC_ALL": "C.UTF-8", **env},
                user=user,
                group="nogroup" if user else None,
                extra_groups=[] if user else None,
                timeout=_TIMEOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(f"{program} did not end within {_TIMEOUT} s") from None
        output = process.stdout.replace(f"{self.root}/", "/").strip()
        if process.returncode:
            raise ValueError(output or f"{program} ended with status {process.returncode}")
        return output


def _expand(pattern: str) -> list[Path]:
    return sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)


def check(folder: Path) -> list[Result]:
    """Return what the programs say of each file of an output folder.

    :raises CheckError: it is not one, or a file that was rendered is not there.
    """
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except OSError:
        raise CheckError(f"{folder} was not made by hasite-render") from None
    paths = [line[66:] for line in lines]
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing:
        raise CheckError(f"{folder}: missing: {', '.join(missing)}; render again")
    hosts: dict[str, list[str]] = {}
    for path in paths:
        if "/" in path:
            host, _, inside = path.partition("/")
            hosts.setdefault(host, []).append(inside)
    results = []
    for name, inside in hosts.items():
        with tempfile.TemporaryDirectory(prefix="hasite-") as temporary:
            Path(temporary).chmod(0o755)
            scratch = Path(temporary, "scratch")
            scratch.mkdir()
            scratch.chmod(0o777)
            root = Path(temporary, "root")
            root.mkdir()
            for path in inside:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name / path, root / path)
            host = _Host(root, scratch)
            results += [_result(name, path, host) for path in inside]
    return results


def _result(name: str, path: str, host: _Host) -> Result:
    whole = f"{name}/{path}"
    checker = next(checker for pattern, checker in _CHECKERS if fnmatch(path, pattern))
    if isinstance(checker, str):
        return Result(whole, "not checked", checker)
    try:
        return Result(whole, "ok", checker(host, host.root / path))
    except _NotInstalled as error:
        return Result(whole, "not checked", f"{error} is not installed here")
    except ValueError as error:
        return Result(whole, "WRONG", str(error))


def _haproxy(host: _Host, _path: Path) -> str:
    folder = host.root / "etc/haproxy"
    named = set(re.findall(r'"\$\{HASITE_ROOT\}([^"]+)"', (folder / "hasite.cfg").read_text()))
    files = ("-f", folder / "haproxy.cfg", "-f", folder / "hasite.cfg")
    if all(os.access(path, os.R_OK) for path in named):
        host.run("haproxy", "-c", "-q", *files, HASITE_ROOT="")
        return "haproxy -c"
    certificates = host.scratch / "certificates"
    for path in named:
        _throwaway_certificate(host, certificates / path.lstrip("/"))
    host.run("haproxy", "-c", "-q", *files, HASITE_ROOT=str(certificates))
    return f"haproxy -c; {', '.join(sorted(named))}: another one instead, it is not here"


def _throwaway_certificate(host: _Host, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        files = ("-keyout", f"{path}.key", "-out", path)
        host.run("openssl", "req", "-x509", *key, "-days", "1", "-subj", "/CN=hasite", *files)


# what is wrong of this machine, or of the user who checks, not of the file
_NOT_THERE = re.compile("doesn't exist$|^Non-existent interface")
_NOT_ROOT = re.compile("^Disabling track script .* due to insecure$")


def _keepalived(host: _Host, path: Path) -> str:
    # run by root it ends by a signal, whatever it finds; by others it cannot become the user of
    # its script, and takes that for insecure
    root = os.geteuid() == 0
    said = "keepalived -t"
    try:
        host.run("keepalived", "-t", "-f", path, user="nobody" if root else None)
    except ValueError as error:
        lines = str(error).splitlines()
        if not root and any(map(_NOT_ROOT.search, lines)):
            lines = [line for line in lines if not _NOT_ROOT.search(line)]
            said += "; its script: not looked at, without root"
        wrong = [line for line in lines if not _NOT_THERE.search(line)]
        if wrong:
            raise ValueError("\n".join(wrong)) from None
        if lines:
            said += "; its network interface: not here"
    return said


def _squid(host: _Host, path: Path) -> str:
    # its own name, or it would refuse where another one runs
    name = f"hasitecheck{os.getpid()}"
    copy = host.scratch / path.name
    text = path.read_text()
    included = re.sub(r"(?m)^include (/\S+)$", rf"include {host.root}\1", text)
    copy.write_text(included)
    output = host.run("squid", "-k", "parse", "-n", name, "-f", copy)
    # some errors are told in the text alone
    wrong = [line for line in output.splitlines() if re.search(r"ERROR|FATAL|WARNING", line)]
    if wrong:
        raise ValueError("\n".join(wrong))
    return "squid -k parse" + ("; its include: that of this folder" if included != text else "")


def _varnish(host: _Host, path: Path) -> str:
    host.run("varnishd", "-C", "-f", path, "-n", host.scratch / "varnish")
    return "varnishd -C"


def _apache(host: _Host, path: Path) -> str:
    variables = {f"APACHE_{kind}_DIR": str(host.scratch) for kind in ("RUN", "LOG")}
    host.run(
        *("apache2", "-t", "-f", path),
        **variables,
        APACHE_PID_FILE=str(host.scratch / "apache.pid"),
        APACHE_RUN_USER="#65534",
        APACHE_RUN_GROUP="#65534",
    )
    return "apache2 -t; its folders of logs: others"


def _unit(host: _Host, path: Path) -> str:
    """Check a unit, or what is added to a unit of Debian's."""
    units = host.root / "usr/lib/systemd/system"
    name = path.parent.name.removesuffix(".d") if path.suffix == ".conf" else path.name
    units.mkdir(parents=True, exist_ok=True)
    for present in (*_SYSTEM_UNITS.glob("*.target"), _SYSTEM_UNITS / name):
        if present.is_file() and not (units / present.name).exists():
            shutil.copy(present, units)
    unit = units / name if path.suffix == ".conf" else path
    if not unit.exists():
        raise _NotInstalled(name)
    # the programs that it starts need not be here
    for text in (unit.read_text(), path.read_text()):
        for program in re.findall(r"(?m)^Exec\w+=[-@:+!]*(/\S+)", text):
            stub = host.root / program.lstrip("/")
            stub.parent.mkdir(parents=True, exist_ok=True)
            if not stub.exists():
                stub.touch(mode=0o755)
    output = host.run(
        "systemd-analyze", "verify", f"--root={host.root}", name.replace("@.", "@1.")
    )
    ours = "/" + str(path.relative_to(host.root))
    wrong = [line for line in output.splitlines() if line.startswith(ours)]
    if wrong:
        raise ValueError("\n".join(wrong))
    return "systemd-analyze verify; the programs that it starts: not looked at"


# What asks the network, which here is another one: Patroni's addresses are right or not on its
# own host. Those that it has to find free are free, those that it has to reach are not reached.
_NO_NETWORK = "import socket\nsocket.socket.connect_ex = lambda self, address: 1\n"
_EXPECTED = re.compile(
    r"^\S+( \S+)? didn't pass validation: '\S+ is not reachable'$|"
    r"^postgresql\.bin_dir .*(is not a directory|does not contain)|^$"
)


def _patroni(host: _Host, path: Path) -> str:
    (host.scratch / "sitecustomize.py").write_text(_NO_NETWORK)
    try:
        host.run("patroni", "--validate-config", path, PYTHONPATH=str(host.scratch))
    except ValueError as error:
        wrong = [line for line in str(error).splitlines() if not _EXPECTED.match(line)]
        if wrong:
            raise ValueError("\n".join(wrong)) from None
    return "patroni --validate-config; addresses: not tried"


def _postgresql(host: _Host, path: Path) -> str:
    version = path.parts[-4]
    data = host.scratch / "data"
    data.mkdir(exist_ok=True)
    (data / "PG_VERSION").write_text(f"{version}\n")
    host.run("postgres", "-C", "port", "-D", data, "-c", f"config_file={path}")
    return "postgres -C"


def _prometheus(host: _Host, path: Path) -> str:
    host.run("promtool", "check", "config", path)
    return "promtool check config"


def _rules(host: _Host, path: Path) -> str:
    host.run("promtool", "check", "rules", path)
    return "promtool check rules"


def _dashboard(host: _Host, path: Path) -> str:
    """Check the JSON of a dashboard, and its queries, as rules of Prometheus."""
    panels = json.loads(path.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [{"record": f"q{index}", "expr": query} for index, query in enumerate(queries)]
    rule_file = host.scratch / f"{path.stem}.json"
    rule_file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    host.run("promtool", "check", "rules", rule_file)
    return "JSON; its queries: promtool check rules"


def _nagios(host: _Host, path: Path) -> str:
    configuration = host.scratch / "nagios.cfg"
    resources = host.scratch / "resource.cfg"
    resources.touch()
    settings = {
        "cfg_file": path,
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
    configuration.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    host.run("nagios4", "-v", configuration)
    return "nagios4 -v, with other settings of Nagios itself"


def _shell(host: _Host, path: Path) -> str:
    host.run("sh", "-n", path)
    return "sh -n"


def _python(_host: _Host, path: Path) -> str:
    try:
        compile(path.read_text(), path.name, "exec")
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    return "Python's compiler"


def _certificate(host: _Host, path: Path) -> str:
    host.run("openssl", "x509", "-noout", "-checkend", "0", "-in", path)
    return "openssl x509: not expired"


#: how each file is checked, or why it is not; the first pattern that matches its path decides
_CHECKERS: list[tuple[str, Callable[[_Host, Path], str] | str]] = [
    ("etc/haproxy/certs/*", _certificate),
    ("etc/haproxy/*.cfg", _haproxy),
    ("etc/keepalived/*", _keepalived),
    ("etc/squid/*", _squid),
    ("etc/varnish/*", _varnish),
    ("etc/apache2/*", _apache),
    ("etc/systemd/system/*", _unit),
    ("etc/patroni/*", _patroni),
    ("etc/postgresql/*/pg_hba.conf", "PostgreSQL reads it when it runs: see pg_hba_file_rules"),
    ("etc/postgresql/*", _postgresql),
    ("etc/prometheus/prometheus.yml", _prometheus),
    ("etc/prometheus/hasite/*", _rules),
    ("var/lib/grafana/*", _dashboard),
    ("etc/grafana/*", "Grafana reads it when it starts"),
    ("etc/nagios4/*", _nagios),
    ("usr/local/share/hasite/*.py", _python),
    ("usr/local/sbin/*", _shell),
    ("etc/default/*", _shell),
    ("etc/hasite/*.env", _shell),
    ("*", "nothing is known that reads it"),
]


def table(results: list[Result]) -> Iterator[str]:
    """Yield the lines of the table of results, and a summary."""
    width = max(len(result.path) for result in results)
    for result in results:
        first, *others = result.detail.splitlines() or [""]
        yield f"{result.verdict:<11}  {result.path:<{width}}  {first}"
        yield from (" " * (width + 15) + line for line in others)
    counts = {
        verdict: sum(result.verdict == verdict for result in results)
        for verdict in ("ok", "WRONG", "not checked")
    }
    yield f"{counts['ok']} ok, {counts['WRONG']} wrong, {counts['not checked']} not checked"


def failed(results: list[Result], *, strict: bool) -> bool:
    """Return whether a file is wrong or, if `strict`, not checked for want of its program."""
    missing = any(result.detail.endswith("is not installed here") for result in results)
    return any(result.verdict == "WRONG" for result in results) or (strict and missing)
