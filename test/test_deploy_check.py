"""`hasite-check`: it finds errors in files, and never takes this machine's lacks for them."""

import os
import re
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from deploying import SITES, UNCHECKED, example, hasite, tree  # noqa: F401
from servers.support import find_program

from cubicweb_hasite.deploy import check, load, output, programs, render

#: the programs that check files: Debian's package, its folder, the files
PROGRAMS = {
    "amtool": ("prometheus-alertmanager", "/usr/bin", "*/etc/prometheus/alertmanager*"),
    "apache2": ("apache2", "/usr/sbin", "*/etc/apache2/*"),
    "haproxy": ("haproxy", "/usr/sbin", "*/etc/haproxy/*"),
    "keepalived": ("keepalived", "/usr/sbin", "*/etc/keepalived/*"),
    "nft": ("nftables", "/usr/sbin", "*/etc/hasite/firewall.nft"),
    "nagios4": ("nagios4-core", "/usr/sbin", "*/etc/nagios4/*"),
    "patroni": ("patroni", "/usr/bin", "*/etc/patroni/*"),
    "pgbackrest": ("pgbackrest", "/usr/bin", "*/etc/pgbackrest/*"),
    "prometheus-blackbox-exporter": (
        "prometheus-blackbox-exporter",
        "/usr/bin",
        "*/etc/prometheus/blackbox.yml",
    ),
    "promtool": (
        "prometheus",
        "/usr/bin",
        "*/hasite*.json */etc/prometheus/prometheus.yml */etc/prometheus/hasite/*",
    ),
    "sh": ("dash", "/bin", "*/etc/default/* */etc/hasite/*.env */usr/local/sbin/*"),
    "squid": ("squid", "/usr/sbin", "*/etc/squid/*"),
    "systemd-analyze": ("systemd", "/usr/bin", "*/etc/systemd/system/*"),
    "varnishd": ("varnish", "/usr/sbin", "*/etc/varnish/*"),
}
#: a file that none of them checks
OTHER = "web1/usr/local/share/hasite/check_storage.py"
#: mistakes in files of the example, which the programs find
MISTAKES = {
    "lb1/etc/haproxy/hasite.cfg": ("balance source", "balance sorcery"),
    "lb1/etc/haproxy/haproxy.cfg": ("user haproxy", "usr haproxy"),
    "lb1/etc/keepalived/keepalived.conf": ("nopreempt", "nopremt"),
    "lb1/etc/default/haproxy": ('.cfg"', ".cfg"),
    "web1/etc/squid/hasite.conf": ("cache_mem", "cache_memory"),
    "web1/etc/squid/squid.conf": ("pid_filename", "pid_file"),
    "web1/etc/apache2/apache2.conf": ("ProxyPass ", "ProxyPas "),
    "web1/etc/systemd/system/cubicweb-mysite@.service": ("Restart=", "Restrt="),
    "web1/etc/systemd/system/squid.service.d/hasite.conf": ("RestartSec=1", "RestartSec=soon"),
    "web1/etc/hasite/mysite.env": ('CW_DB_NAME="', "CW_DB_NAME="),
    "web1/etc/hasite/firewall.nft": ("tcp dport", "tcp port"),
    "web1/usr/local/sbin/mysite-ctl": ("set +a", "set +a; ("),
    "web1/usr/local/share/hasite/check_storage.py": ("if found:", "if found"),
    "db1/etc/patroni/config.yml": ("ttl: 20", "ttl: twenty"),
    "backup/etc/pgbackrest/pgbackrest.conf": ("pg3-host-type=tls", "pg3-host-type=t"),
    "backup/etc/systemd/system/hasite-backup.timer": ("02:00:00", "26:00:00"),
    "monitor/etc/prometheus/prometheus.yml": ("scrape_configs", "scrapes"),
    "monitor/etc/prometheus/hasite/haproxy.rules.yml": ("expr: ", "exprs: "),
    "monitor/etc/prometheus/alertmanager.yml": ("receiver: people", "receiver: person"),
    "monitor/etc/prometheus/alertmanager_templates/hasite.tmpl": ("{{ with ", "{{ wth "),
    "monitor/etc/prometheus/blackbox.yml": ("fail_if_not_ssl", "fail_if_not_tls"),
    "monitor/etc/default/prometheus-alertmanager": ("/ --", '/" --'),
    "monitor/var/lib/grafana/dashboards/hasite-haproxy.json": ("rate(", "rat("),
    "monitor/var/lib/grafana/dashboards/hasite-squid.json": ('"targets"', '"target"'),
    "monitor/etc/nagios4/conf.d/hasite.cfg": ("hasite-ping", "hasite-pong"),
    "monitor/etc/nagios4/nagios.cfg": ("cfg_dir=", "cfg_folder="),
}


def render_site(name: str, folder: Path, old: str = "", new: str = "") -> Path:
    """Render one of the sites, with a change in its site file; return the output folder."""
    [path] = [path for path in SITES if path.stem == name]
    folder.mkdir(exist_ok=True)
    text = path.read_text()
    assert old in text
    (folder / "site.toml").write_text(text.replace(old, new, 1))
    output.write(render.render(load.load(folder / "site.toml"), drawing=False), folder / "out")
    return folder / "out"


def copy_files(folder: Path, patterns: Iterable[str], copy: Path) -> Path:
    """Copy some files of an output folder, so that the others need not be checked."""
    lines = (folder / output.MANIFEST).read_text().splitlines()
    kept = [line for line in lines if any(fnmatch(line[66:], pattern) for pattern in patterns)]
    assert kept
    copy.mkdir()
    (copy / output.MANIFEST).write_text("".join(f"{line}\n" for line in kept))
    for line in kept:
        (copy / line[66:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / line[66:], copy / line[66:])
    return copy


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def programs_alone(
    server_directory: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The only folder of programs: it has those that check files, and none of their companions."""
    folder = server_directory("programs")
    folder.mkdir()
    for name, (package, place, _files) in PROGRAMS.items():
        (folder / name).symlink_to(find_program(name, package, place))
    (folder / "rm").symlink_to("/bin/rm")  # Varnish crashes without it
    (folder / "unshare").symlink_to("/usr/bin/unshare")  # gives nft its right, if we are not root
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(programs, "FOLDERS", [])
    return folder


def test_example_is_checked(example: Path) -> None:  # noqa: F811
    """Every file of the example is accepted by the program that will read it."""
    result = hasite("check", "--strict", "out", cwd=example)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    *rows, summary = result.stdout.splitlines()
    verdicts = dict(reversed(re.match(r"(ok|not checked) +(\S+) ", row).groups()) for row in rows)
    rendered = {path for path in tree(example / "out") if "/" in path}
    assert verdicts.keys() == rendered
    unchecked = {path for path, verdict in verdicts.items() if verdict == "not checked"}
    assert unchecked == {path for path in rendered if UNCHECKED.search(path)}
    assert summary == f"{len(rows) - len(unchecked)} ok, 0 wrong, {len(unchecked)} not checked"


def test_mistakes_are_found(example: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "out"
    output.write(render.render(load.load(example / "site.toml"), drawing=False), folder)
    for path, (old, new) in MISTAKES.items():
        change(folder / path, old, new)
    results = {result.path: result for result in check.check(folder)}
    for path in MISTAKES:
        assert results[path].verdict == "WRONG", results[path]
    assert check.failed(list(results.values()), strict=False)


@pytest.mark.parametrize(
    ("name", "path", "old", "new"),
    [
        ("varnish", "web1/etc/varnish/hasite.vcl", "sub vcl_recv", "sub vcl_rcv"),
        ("no_apache", "db1/etc/postgresql/15/main/conf.d/hasite.conf", "port = ", "prt = "),
        ("backup", "store/etc/pgbackrest/pgbackrest.conf", "-auth=10.0.0.32=", "-auth="),
        ("backup", "store/etc/pgbackrest/beside.conf", "process-max=3", "process-max=many"),
        ("backup", "store/etc/pgbackrest/beside.conf", "lock-path=", "lock-pth="),
        ("backup", "db1/etc/pgbackrest/pgbackrest.conf", "repo1-host=", "repo1-hst="),
        ("backup_alone", "db1/etc/pgbackrest/pgbackrest.conf", "host-port=8432", "host-port=84e"),
    ],
)
def test_mistakes_of_other_sites(name: str, path: str, old: str, new: str, tmp_path: Path) -> None:
    folder = copy_files(render_site(name, tmp_path), [path], tmp_path / "copy")
    [result] = check.check(folder)
    assert result.verdict == "ok", result
    change(folder / path, old, new)
    [result] = check.check(folder)
    assert result.verdict == "WRONG", result


def test_script_that_cannot_be_executed(example: Path, tmp_path: Path) -> None:  # noqa: F811
    pattern = "backup/*hasite-backup*"
    folder = copy_files(example / "out", [pattern], tmp_path / "copy")
    (folder / "backup/usr/local/sbin/hasite-backup").chmod(0o644)
    results = {result.path: result for result in check.check(folder)}
    unit = results["backup/etc/systemd/system/hasite-backup.service"]
    assert unit.verdict == "WRONG"
    assert "hasite-backup is not executable" in unit.detail


def test_certificate(tmp_path: Path) -> None:
    """It has to be one that has not expired."""
    paths = ["lb1/etc/haproxy/certs/www.pem"]
    (tmp_path / "www.pem").write_text(
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    )
    site = 'url = "https://www.example.org/"\ncertificate = "www.pem"'
    rendered = render_site("no_tls", tmp_path, 'url = "http://www.example.org/"', site)
    folder = copy_files(rendered, paths, tmp_path / "copy")
    [result] = check.check(folder)
    assert result.verdict == "WRONG"
    assert "certificate" in result.detail


# --- machines that lack something


def with_files_of(program: str, example: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Return a folder with the files that a program checks, and one that it does not."""
    rendered = example / "out"
    if program == "varnishd":
        rendered = render_site("varnish", tmp_path / "varnish")
    return copy_files(rendered, [*PROGRAMS[program][2].split(), OTHER], tmp_path / "copy")


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_that_is_not_installed(
    program: str,
    example: Path,  # noqa: F811
    tmp_path: Path,
    programs_alone: Path,
) -> None:
    """Its files are not checked, which is an error only with --strict."""
    (programs_alone / program).unlink()
    results = check.check(with_files_of(program, example, tmp_path))
    for result in results:
        if result.path == OTHER:
            assert result.verdict == "ok"
        else:
            assert result.verdict == "not checked", result
            assert result.detail == f"{program} is not installed here"
    assert not check.failed(results, strict=False)
    assert check.failed(results, strict=True)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "#!/bin/sh\necho out of order; exit 3\n",
            "a file that is right is refused here too: out",
        ),
        ("#!/bin/sh\nkill -9 $$\n", " was ended by signal 9"),
        ("not a program", " does not run here: Exec format error"),
    ],
    ids=["refuses", "crashes", "does not start"],
)
@pytest.mark.parametrize("program", [program for program in PROGRAMS if program != "sh"])
def test_program_that_does_not_work(
    program: str,
    script: str,
    said: str,
    example: Path,  # noqa: F811
    tmp_path: Path,
    programs_alone: Path,
) -> None:
    """What it says of every file is not the fault of a file."""
    (programs_alone / program).unlink()
    (programs_alone / program).write_text(script)
    (programs_alone / program).chmod(0o755)
    for result in check.check(with_files_of(program, example, tmp_path)):
        if result.path == OTHER:
            continue
        assert result.verdict == "not checked", result
        assert said in result.detail
        assert result.incomplete


def test_no_companions(example: Path, tmp_path: Path, programs_alone: Path) -> None:  # noqa: F811
    """No manual pages, no openssl: the programs alone check all the same, but for Varnish, which
    compiles."""
    for folder in (example / "out", render_site("varnish", tmp_path)):
        for result in check.check(folder):
            if fnmatch(result.path, "*/etc/varnish/*"):
                assert result.verdict == "not checked"
                assert "Running C-compiler failed" in result.detail
            else:
                expected = "not checked" if UNCHECKED.search(result.path) else "ok"
                assert result.verdict == expected, result


def test_no_openssl(example: Path, tmp_path: Path, programs_alone: Path) -> None:  # noqa: F811
    """HAProxy checks all but TLS, for which it needs a certificate."""
    folder = copy_files(example / "out", ["lb1/etc/haproxy/*"], tmp_path / "copy")
    results = check.check(folder)
    for result in results:
        assert result.verdict == "ok", result
        assert result.detail == "haproxy -c; TLS: not checked, openssl is not installed here"
    assert check.failed(results, strict=True)
    change(folder / "lb1/etc/haproxy/hasite.cfg", "balance source", "balance sorcery")
    assert {result.verdict for result in check.check(folder)} == {"WRONG"}


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        ("lb1/etc/haproxy/haproxy.cfg", "user haproxy", "user nosuch", "the user nosuch: another"),
        ("lb1/etc/haproxy/haproxy.cfg", "group haproxy", "group nosuch", "the group nosuch: ano"),
        ("lb1/etc/keepalived/keepalived.conf", "nobody", "nosuch", "the user nosuch of its sc"),
        ("lb1/etc/keepalived/keepalived.conf", " eth0", " nosuch0", "network interface: not here"),
        ("web1/etc/apache2/apache2.conf", "/etc/apache2\n", "/nosuch\n", "/nosuch: another"),
    ],
)
def test_what_a_file_names_is_not_here(
    path: str,
    old: str,
    new: str,
    said: str,
    example: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Users, network interfaces and folders of a host need not be here."""
    folder = copy_files(example / "out", [f"{Path(path).parent}/*.c*"], tmp_path / "copy")
    change(folder / path, f"ServerRoot {old}" if old.startswith("/") else old, new)
    if old.startswith("/"):
        change(folder / path, new, f"ServerRoot {new}")
    for result in check.check(folder):
        assert result.verdict == "ok", result
        assert said in result.detail
        assert not result.incomplete


def test_module_of_apache_that_is_not_here(example: Path, tmp_path: Path) -> None:  # noqa: F811
    path = "web1/etc/apache2/apache2.conf"
    folder = copy_files(example / "out", [path], tmp_path / "copy")
    change(folder / path, "/mod_deflate.so", "/mod_nosuch.so")
    [result] = check.check(folder)
    assert result.verdict == "not checked"
    assert result.detail == "/usr/lib/apache2/modules/mod_nosuch.so is not installed here"


def test_unit_that_is_not_installed(example: Path, tmp_path: Path) -> None:  # noqa: F811
    """A drop-in is checked all the same, with another unit."""
    path = "web1/etc/systemd/system/squid.service.d/hasite.conf"
    folder = copy_files(example / "out", [path], tmp_path / "copy")
    units = folder / "web1/etc/systemd/system"
    (units / "squid.service.d").rename(units / "nosuch.service.d")
    change(folder / output.MANIFEST, "squid.service", "nosuch.service")
    [result] = check.check(folder)
    assert (result.verdict, result.detail) == (
        "ok",
        "systemd-analyze verify; the programs that it starts: not checked; "
        "Debian's unit: another one",
    )
    change(units / "nosuch.service.d/hasite.conf", "ProtectSystem=", "ProtectSystm=")
    [result] = check.check(folder)
    assert result.verdict == "WRONG"
    assert "ProtectSystm" in result.detail


def test_other_version_of_postgresql(tmp_path: Path) -> None:
    rendered = render_site("no_apache", tmp_path, "[postgresql]", "[postgresql]\nversion = 13")
    folder = copy_files(rendered, ["db1/etc/postgresql/*/hasite.conf"], tmp_path / "copy")
    [result] = check.check(folder)
    assert (result.verdict, result.detail) == (
        "not checked",
        "PostgreSQL 13 is not installed here",
    )


def test_files_that_only_this_user_may_read(example: Path, tmp_path: Path) -> None:  # noqa: F811
    """keepalived is run by another user than root, who has to read its file."""
    folder = copy_files(example / "out", ["lb1/etc/keepalived/*"], tmp_path / "copy")
    (folder / "lb1/etc/keepalived/keepalived.conf").chmod(0o600)
    before = os.umask(0o077)
    try:
        [result] = check.check(folder)
    finally:
        os.umask(before)
    assert result.verdict == "ok", result


# --- folders


def test_check_of_something_else(tmp_path: Path) -> None:
    result = hasite("check", tmp_path, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"{tmp_path} was not made by hasite-render\n"


def test_check_of_a_removed_file(example: Path, tmp_path: Path) -> None:  # noqa: F811
    output.write(render.render(load.load(example / "site.toml"), drawing=False), tmp_path)
    (tmp_path / "lb1/etc/haproxy/hasite.cfg").unlink()
    with pytest.raises(check.CheckError, match=r"missing: lb1/etc/haproxy/hasite\.cfg; render"):
        check.check(tmp_path)
