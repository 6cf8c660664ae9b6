"""`hasite-check-host`, rendered for each host, tells a mistake before the programs do."""

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from deploying import SITES
from servers.postgresql import PostgreSQL
from servers.s3 import ObjectStore

from cubicweb_hasite.deploy import load, output, render

ME, GROUP = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
CERTIFICATE = "/etc/letsencrypt/live/www.example.org/haproxy.pem"
PGPASS = "/etc/hasite/secrets/mysite.pgpass"
ENV = "/etc/hasite/secrets/mysite.env"
SCRIPT = "usr/local/sbin/hasite-check-host"
RIGHT = "all: nothing is missing or wrong"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root becomes another user, as these scripts do"
)


def certificate(path: Path, name: str = "www.example.org", days: int = 90) -> None:
    """Write a certificate and its key to one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = path.with_suffix(".new-key")
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-subj", f"/CN={name}"]
    command += [
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    subprocess.run(
        [*command, "-days", str(days), "-keyout", key, "-out", path],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + key.read_text())
    key.unlink()


def expect(host: Path, former: str, new: str) -> None:
    """Let the script of a host expect something else."""
    script = host / SCRIPT
    text = script.read_text()
    assert former in text
    script.write_text(text.replace(former, new))


def said(host: Path) -> list[str]:
    """Run the script on a copy of a host; return its lines."""
    result = subprocess.run(
        [host / SCRIPT],
        env={"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HASITE_ROOT": str(host)},
        capture_output=True,
        text=True,
    )
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert result.returncode == (0 if lines == [RIGHT] else 1)
    return lines


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host on which nothing is wrong. What is to be root's there belongs to the user here."""
    folder = tmp_path_factory.mktemp("right")
    [site_file] = [path for path in SITES if path.stem == "one_host"]
    text = site_file.read_text().replace("192.0.2.1", "127.0.0.1")
    (folder / "site.toml").write_text(f'{text}\n[instances]\nuser = "{ME}"\n')
    output.write(render.render(load.load(folder / "site.toml"), drawing=False), folder / "out")
    host = folder / "out" / "all"
    certificate(host / CERTIFICATE[1:])
    secrets = host / "etc" / "hasite" / "secrets"
    secrets.mkdir()
    for name, line in [("mysite.pgpass", "*:5432:mysite:mysite:8d3ac1\n"), ("mysite.env", "")]:
        (secrets / name).touch(0o600)
        (secrets / name).write_text(line)
    expect(host, "root:root", f"{ME}:{GROUP}")
    expect(host, f"{ENV} root", f"{ENV} {ME}")
    ini = host / "etc/cubicweb.d/mysite/pyramid.ini"
    ini.parent.mkdir(parents=True)
    ini.touch(0o640)
    return host


@pytest.fixture
def host(right: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", right, tmp_path / "all"], check=True)
    return tmp_path / "all"


def test_right(host: Path) -> None:
    assert said(host) == [RIGHT]


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "secret forgotten": (
        lambda host: (host / PGPASS[1:]).unlink(),
        f"{PGPASS} is missing (the password of the user mysite of PostgreSQL): make it, "
        "chapter 1, step 3 of the runbook",
    ),
    "secret of another owner": (
        lambda host: expect(host, f"{PGPASS} {ME}", f"{PGPASS} nobody"),
        f"{PGPASS} is {ME}'s, mode 600: chown nobody: {PGPASS}; chmod 600 {PGPASS}",
    ),
    "secret for all": (
        lambda host: (host / PGPASS[1:]).chmod(0o644),
        f"{PGPASS} is {ME}'s, mode 644: chown {ME}: {PGPASS}; chmod 600 {PGPASS}",
    ),
    "secret not filled in": (
        lambda host: (host / PGPASS[1:]).write_text("*:5432:mysite:mysite:PASSWORD\n"),
        f"{PGPASS}: replace the word PASSWORD by the password",
    ),
    "secret of another user": (
        lambda host: (host / PGPASS[1:]).write_text("*:5432:other:other:8d3ac1\n"),
        f"{PGPASS} has no line *:5432:mysite:mysite:…: write it, chapter 1, step 3 of the runbook",
    ),
    "options forgotten": (
        lambda host: (host / ENV[1:]).unlink(),
        f"{ENV} is missing (options of the site that are secret): make it, chapter 1, step 3 of "
        "the runbook",
    ),
    "file not copied": (
        lambda host: (host / "etc/squid/hasite.conf").unlink(),
        "/etc/squid/hasite.conf is missing: copy the files of all, chapter 1, step 2 of the "
        "runbook",
    ),
    "mode of Debian's file": (
        lambda host: (host / "etc/postgresql/15/main/pg_hba.conf").chmod(0o640),
        f"/etc/postgresql/15/main/pg_hba.conf is {ME}:{GROUP}, mode 640: chown {ME}:{GROUP} "
        "/etc/postgresql/15/main/pg_hba.conf; chmod 644 /etc/postgresql/15/main/pg_hba.conf",
    ),
    "no certificate": (
        lambda host: (host / CERTIFICATE[1:]).unlink(),
        f"{CERTIFICATE} is missing: put the certificate of www.example.org and its key there, "
        "chapter 1, step 8 of the runbook",
    ),
    "certificate for another name": (
        lambda host: certificate(host / CERTIFICATE[1:], "other.example.org"),
        f"{CERTIFICATE} is not for the name www.example.org: put one for that name there",
    ),
    "no certificate at all": (
        lambda host: (host / CERTIFICATE[1:]).write_text("-----BEGIN PRIVATE KEY-----\n"),
        f"{CERTIFICATE} is no certificate in PEM: put another one there",
    ),
    "secrets of cookies": (
        lambda host: (host / "etc/cubicweb.d/mysite/pyramid.ini").chmod(0o644),
        "/etc/cubicweb.d/mysite/pyramid.ini can be read by others, who could forge logins: "
        "chmod 640 /etc/cubicweb.d/mysite/pyramid.ini",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(mistake: str, host: Path) -> None:
    do, line = MISTAKES[mistake]
    do(host)
    assert said(host) == [line]


def test_certificate_without_its_key(host: Path) -> None:
    path = host / CERTIFICATE[1:]
    own, _, key = path.read_text().partition("-----BEGIN PRIVATE")
    path.write_text(own)
    assert said(host) == [
        f"{CERTIFICATE} has no key: append it to the file, or write it in {CERTIFICATE}.key"
    ]
    Path(f"{path}.key").write_text(f"-----BEGIN PRIVATE{key}")
    assert said(host) == [RIGHT]
    certificate(other := host / "other.pem")
    Path(f"{path}.key").write_text(
        "-----BEGIN PRIVATE" + other.read_text().partition("-----BEGIN PRIVATE")[2]
    )
    assert said(host) == [
        f"the key of {CERTIFICATE} is that of another certificate: put its own there"
    ]


def test_certificate_that_expires(host: Path) -> None:
    certificate(host / CERTIFICATE[1:], days=10)
    [line] = said(host)
    assert line.startswith(f"{CERTIFICATE} expires on ")
    assert line.endswith(": put a new one there, then systemctl reload haproxy")


def test_files_of_another_host(tmp_path: Path) -> None:
    [site_file] = [path for path in SITES if path.stem == "no_apache"]
    output.write(render.render(load.load(site_file), drawing=False), tmp_path / "out")
    assert said(tmp_path / "out" / "lb1")[0] == (
        "this host has not the address 10.0.0.11 of lb1: copy the files of this host, or give it "
        "that address"
    )
    assert not any("'" in line and "is root's" in line for line in said(tmp_path / "out" / "db1"))


def test_certificates_of_backups(tmp_path: Path) -> None:
    """A host that makes backups knows the others by them, and has a passphrase."""
    [site_file] = [path for path in SITES if path.stem == "backup"]
    output.write(render.render(load.load(site_file), drawing=False), tmp_path / "out")
    host = tmp_path / "out" / "store"
    folder = host / "etc" / "pgbackrest"
    certify = "certify this host, chapter 1, step 3 of the runbook"
    lines = said(host)
    assert f"/etc/pgbackrest/host.key is missing: {certify}" in lines
    passphrase = "/etc/pgbackrest/conf.d/passphrase.conf"
    assert any(line.startswith(f"{passphrase} is missing (the passphrase of ") for line in lines)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name, days in (("ca", "90"), ("host", "5")):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}"]
        command = ["openssl", "req", "-x509", *curve, "-days", days, *files]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "host.key").chmod(0o640)
    lines = said(host)
    assert (
        f"/etc/pgbackrest/host.key is {ME}'s, mode 640: chown postgres: /etc/pgbackrest/host.key; "
        "chmod 600 /etc/pgbackrest/host.key"
    ) in lines
    expires = "has expired, expires within 14 days, or is no certificate"
    assert f"/etc/pgbackrest/host.crt {expires}: {certify}" in lines
    other = "is not of the authority /etc/pgbackrest/ca.crt"
    assert f"/etc/pgbackrest/host.crt {other}: {certify}" in lines


def render_host(folder: Path, text: str) -> Path:
    """Render a site with one host; return its folder, where the script looks for its files."""
    (folder / "site.toml").write_text(text)
    output.write(render.render(load.load(folder / "site.toml"), drawing=False), folder / "out")
    host = folder / "out" / "all"
    for path in (SCRIPT, "etc/hasite/mysite.env"):
        content = (host / path).read_text()
        (host / path).write_text(content.replace("/etc/hasite/", f"{host}/etc/hasite/"))
    (host / "etc/hasite/secrets").mkdir()
    return host


def told(host: Path, about: str) -> str:
    """Run the script of a host as it is; return its lines about something."""
    result = subprocess.run([host / SCRIPT], capture_output=True, text=True)
    assert "8d3ac1" not in result.stdout, "a secret"
    return "\n".join(line for line in result.stdout.splitlines() if about in line)


@needs_root
def test_password_of_the_database(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """It is tried as the instances do it."""
    [site_file] = [path for path in SITES if path.stem == "one_host"]
    text = site_file.read_text().replace("192.0.2.1", "127.0.0.1")
    text = text.replace("[postgresql]", f"[postgresql]\nport = {postgresql.port}")
    instances = f'[instances]\nuser = "root"\nvirtualenv = "{sys.prefix}"\n'
    host = render_host(tmp_path, f"{text}\n{instances}")
    pgpass = host / PGPASS[1:]
    postgresql.sql("CREATE DATABASE mysite", timeout=60)
    postgresql.create_user("mysite", "right")
    database = "database of"
    assert "no password supplied: write the password in " in told(host, database)
    pgpass.touch(0o600)
    pgpass.write_text(f"*:{postgresql.port}:mysite:mysite:wrong\n")
    assert 'password authentication failed for user "mysite": write the password of' in told(
        host, database
    )
    pgpass.write_text(f"*:{postgresql.port}:mysite:mysite:right\n")
    assert told(host, database) == ""
    pgpass.chmod(0o644)
    assert "no password supplied" in told(host, database)
    environment = host / "etc/hasite/mysite.env"
    environment.write_text(environment.read_text() + "CW_DB_HOST=db.invalid\n")
    assert told(host, database).endswith(": give the name its address in DNS or in /etc/hosts")
    environment.write_text(environment.read_text().replace("CW_DB_HOST=db.invalid\n", ""))
    postgresql.stop()
    assert told(host, database).endswith(": is it up? chapter 4 of the runbook")


def test_key_to_the_bucket(server_directory: Callable[[str], Path], tmp_path: Path) -> None:
    """It is tried as the instances do it, and no secret is told."""
    [site_file] = [path for path in SITES if path.stem == "one_host"]
    with ObjectStore(server_directory("objects")) as store:
        storage = f'[storage]\nbucket = "{store.bucket}"\nendpoint = "{store.url}"\n'
        instances = f'[instances]\nvirtualenv = "{sys.prefix}"\n'
        host = render_host(tmp_path, f"{site_file.read_text()}\n{storage}{instances}")
        secrets, bucket = host / ENV[1:], "the bucket"
        secrets.write_text("AWS_ACCESS_KEY_ID=site\nAWS_SECRET_ACCESS_KEY=8d3ac1\n")
        assert told(host, bucket) == ""
        store.refuse(refuses=True)
        assert "(InvalidAccessKeyId)" in told(host, bucket)
        store.refuse(refuses=False)
        store.reset()
        assert "NoSuchBucket" in told(host, bucket)
        assert told(host, bucket).endswith(": make it, or correct storage.bucket in the site file")
    assert ": is the object store up, and storage.endpoint in the site file right?" in told(
        host, bucket
    )


@needs_root
def test_ctl_writes_nothing_for_others(right: Path, tmp_path: Path) -> None:
    """`mysite-ctl create` writes the secrets that sign cookies."""
    script = (right / "usr/local/sbin/mysite-ctl").read_text()
    script = script.replace(f"--reuid {ME} --regid {ME}", "--reuid nobody --regid nogroup")
    for folder in ("/etc/hasite", "/run/cubicweb"):
        script = script.replace(folder, f"{tmp_path}{folder}")
    (tmp_path / "etc/hasite").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "etc/hasite/mysite.env").touch()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "cubicweb-ctl"
    command.write_text('#!/bin/sh\numask\nid -un\necho "$1"\n')
    command.chmod(0o755)
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    result = subprocess.run(
        ["sh", "-c", script, "mysite-ctl", "create"],
        env={"PATH": os.environ["PATH"], "CTL_ENVIRONMENT": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (result.stderr, result.stdout.split()) == ("", ["0027", "nobody", "create"])
