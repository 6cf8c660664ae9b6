"""The runbook's commands, as far as a machine without these hosts can try them."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from deploying import SITES
from servers.runbook import ADMIN, LEADER, blocks, chapter

from cubicweb_hasite.deploy import document, load, render

#: those of this process, for options of `install`
OWNER = {"o": str(os.geteuid()), "g": str(os.getegid())}
CSV = """\
# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wred,status
visitors,FRONTEND,,,0,1,4000,9,1,1,0,0,0,,,,,OPEN,
mysite,web1-1,0,0,0,1,64,7,1,1,,0,,0,0,0,0,UP,
mysite,web1-2,0,0,0,1,64,7,1,1,,0,,0,0,0,0,DOWN 1/2,
mysite,BACKEND,0,0,0,1,400,7,1,1,0,0,,0,0,0,0,UP,
mysite-cached,web1-1,0,0,0,1,64,7,1,1,,0,,0,0,0,0,UP,
mysite-cached,BACKEND,0,0,0,1,400,7,1,1,0,0,,0,0,0,0,UP,
"""


def runbook(site_file: Path) -> str:
    return render.render(load.load(site_file), drawing=False)["runbook.md"].content.decode()


def of_site(name: str) -> str:
    [path] = [path for path in SITES if path.stem == name]
    return runbook(path)


@pytest.fixture
def example(tmp_path: Path) -> str:
    """The runbook of the example, with Patroni."""
    (tmp_path / "site.toml").write_text(document.example())
    return runbook(tmp_path / "site.toml")


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_blocks_are_shell(path: Path) -> None:
    """bash reads each block; PostgreSQL's users get no folder that they may not enter."""
    text = runbook(path)
    blocks = re.findall(r"(?ms)^ *```\n(.*?)^ *```$", text)
    for block in blocks:
        if re.match(r"(?m)\s*(\*:|PATRONI_|CW_|\w+,\S+,UP)", block):
            continue  # what a file holds, or what a command prints
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        if "su postgres" in block:
            assert block.split("\n")[0].strip() == "cd /", block
    # the unit `postgresql` neither waits for its cluster nor tells that it has failed
    assert not re.search(r"systemctl (re)?(start|stop) postgresql(?!@)", text)


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_each_block_says_where(path: Path) -> None:
    """The words before it name hosts of the site, so that the lab can carry it out."""
    known = {*tomllib.loads(path.read_text())["hosts"], "preprod", ADMIN, LEADER}
    text = runbook(path)
    for number in range(1, 9):
        found = [block for block in blocks(text, number) if not block.is_file]
        assert found or number > 2
        for block in found:
            assert block.hosts, block.before
            assert set(block.hosts) <= known, block.before


def test_is_the_site_well(example: str, tmp_path: Path) -> None:
    """The command prints the instances alone, in the format that the runbook shows."""
    command = re.search(r"(?m)^curl -s '\S+;csv' (\|.*)$", example)[1]
    result = subprocess.run(
        ["sh", "-c", f"cat {command}"], input=CSV, capture_output=True, text=True, check=True
    )
    assert result.stdout == "mysite,web1-1,UP\nmysite,web1-2,DOWN 1/2\n"
    assert "mysite,web1-1,UP\n" in example


def test_installation(example: str) -> None:
    first = chapter(example, 1)
    for former, later in [
        ("apt-get update", "apt-get install"),
        ("mkdir -p /etc/hasite/secrets", "/dev/null /etc/hasite/secrets/mysite.pgpass"),
        ("/dev/null /etc/hasite/secrets/mysite.env", "mysite-ctl db-create"),
        ("systemctl enable etcd; systemctl restart etcd", "systemctl enable --now patroni"),
        ("systemctl stop postgresql@15-main", "systemctl enable --now patroni"),
        ("install -d -m 755 /etc/haproxy/certs", "systemctl restart haproxy"),
        ("haproxy -c -f", "systemctl restart haproxy"),
        ("systemctl restart nagios4", "hasite-firewall try"),
        ("mysite-ctl hasite-cubes hasite,YOUR_CUBES", "mysite-ctl create"),
    ]:
        assert 0 < first.index(former) < first.index(later), former
    assert "Sync Standby" in first
    assert "admin$` The configuration, with the secrets" in first


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_secrets_made_twice(path: Path, tmp_path: Path) -> None:
    """The step keeps what is in them."""
    blocks = re.findall(r"(?ms)^ *```\n((?:(?!```).)*?/dev/null /.*?)^ *```$", runbook(path))
    blocks = [block for block in blocks if "install -m 600" in block]
    assert blocks
    for block in blocks:
        [secret] = re.findall(r"/dev/null /(\S+)", block)
        commands = block.replace(f"/{secret}", f"{tmp_path}/{secret}")
        commands = re.sub(r"(?<=mkdir -p )/", f"{tmp_path}/", commands)
        commands = re.sub(r"-([og]) \w+", lambda each: f"-{each[1]} {OWNER[each[1]]}", commands)
        (tmp_path / secret).parent.mkdir(parents=True, exist_ok=True)
        for content in ("", "8d3ac1"):
            subprocess.run(["sh", "-euc", commands], check=True)
            assert (tmp_path / secret).read_text() == content
            (tmp_path / secret).write_text("8d3ac1")
        assert (tmp_path / secret).stat().st_mode & 0o777 == 0o600


def test_other_version_of_postgresql(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    assert "pgdg" not in of_site("no_apache")
    [site_file] = [path for path in SITES if path.stem == "no_apache"]
    path.write_text(site_file.read_text().replace("[postgresql]", "[postgresql]\nversion = 16"))
    text = runbook(path)
    assert "/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y" in text
    assert "systemctl stop postgresql@16-main" in text


def test_another_web_server(example: str) -> None:
    """The database lets it in before it is started, and it is monitored."""
    third = chapter(example, 3)
    assert 0 < third.index("systemctl reload patroni") < third.index("steps 3 to 7")
    assert 0 < third.index("step 10 of chapter 1") < third.index("systemctl reload patroni")
    assert third.index("systemctl reload prometheus") < third.index("systemctl reload nagios4")
    # the others, and not the new one, are restarted
    assert "systemctl restart cubicweb-mysite@2" in third
    assert "On web1:" in third
    assert "On web2:" not in third


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("three_web_servers", "systemctl restart squid"),
        ("no_apache", "rm -rf /var/spool/squid/*; squid -z --foreground; systemctl start squid"),
        ("varnish", "systemctl restart varnish"),
    ],
)
def test_eids_and_caches_after_a_restoration(name: str, empty: str) -> None:
    fifth = chapter(of_site(name), 5)
    assert 0 < fifth.index("hasite-advance-eids mysite") < fifth.index(empty)
    assert fifth.index(empty) < fifth.index("systemctl start cubicweb-mysite@1")


def test_promotion_by_hand() -> None:
    sixth = chapter(of_site("no_apache"), 6)
    assert sixth.index("pg_promote") < sixth.index("Empty the caches")
    assert "systemctl enable postgresql" in sixth


def test_certificates_of_backups(tmp_path: Path) -> None:
    """Each host gets one for its address, of the same authority; made again, they still fit."""
    first = [block for block in blocks(of_site("backup"), 1) if "openssl" in block.text]
    authority, hosts = first
    assert authority.hosts == ["store"]
    assert hosts.hosts == [ADMIN]
    addresses = ["10.0.0.31", "10.0.0.32", "10.0.0.33", "10.0.0.61"]
    for address in addresses:
        (tmp_path / address).mkdir()
    ssh = tmp_path / "ssh"
    ssh.write_text(
        "#!/bin/sh\n"
        f"folder={tmp_path}/${{1#root@}}\n"
        'exec sh -c "$(echo "$2" | sed "s|/etc/pgbackrest|$folder|g; s|chown postgres: |ls |")"\n'
    )
    ssh.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        text = authority.text.replace("/etc/pgbackrest", f"{tmp_path}/10.0.0.61")
        for commands in (text, hosts.text):
            subprocess.run(["sh", "-euc", commands], env=env, check=True, capture_output=True)
        for address in addresses:
            folder = tmp_path / address
            assert (folder / "host.key").stat().st_mode & 0o777 == 0o600
            for command in (
                ["verify", "-CAfile", "ca.crt", "host.crt"],
                ["x509", "-noout", "-subject", "-in", "host.crt"],
            ):
                result = subprocess.run(
                    ["openssl", *command], cwd=folder, check=True, capture_output=True, text=True
                )
            assert result.stdout == f"subject=CN = {address}\n"
        assert not (tmp_path / "10.0.0.31" / "ca.key").exists()
