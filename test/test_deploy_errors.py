"""Wrong site files: each has its own clear message, and leaves the output folder untouched."""

import tomllib
from pathlib import Path

import pytest
from deploying import hasite, hasite_here, tree

RIGHT = """\
[hosts.lb1]
address = "10.0.0.11"
roles = ["balancer"]
[hosts.lb2]
address = "10.0.0.12"
roles = ["balancer"]
[hosts.web1]
address = "10.0.0.21"
roles = ["web"]
processors = 2
[hosts.web2]
address = "10.0.0.22"
roles = ["web"]
processors = 2
[hosts.db1]
address = "10.0.0.31"
roles = ["database"]
memory = 8
[hosts.db2]
address = "10.0.0.32"
roles = ["database"]
memory = 8
[hosts.db3]
address = "10.0.0.33"
roles = ["database", "monitoring"]
memory = 8

[sites.mysite]
url = "https://www.example.org/"
certificate = "/etc/haproxy/certs/www.example.org.pem"

[sites.other]
url = "http://other.example.org/"
cache_port = 91
apache_port = 8281
instance_port = 8091
management_port = 9091

[balancer]
answer_seconds = 20

[keepalived]
addresses = ["10.0.0.10/24"]
interface = "eth0"

[squid]

[apache]

[instances]
threads = 4

[postgresql]
max_connections = 100

[patroni]
ttl = 20

[prometheus]

[nagios]
contact = "admin@example.org"
"""

#: what is replaced in the right site file, by what, and the message
WRONG = tomllib.loads((Path(__file__).parent / "wrong_sites.toml").read_text())

# what a certificate must not be
KEY = """\
-----BEGIN CERTIFICATE-----
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
"""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the right site file, and what it gives."""
    folder = tmp_path_factory.mktemp("errors")
    (folder / "site.toml").write_text(RIGHT)
    (folder / "key.pem").write_text(KEY)
    result = hasite("render", "site.toml", "out", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder


def test_each_has_its_message() -> None:
    assert len(WRONG) >= 40
    assert len({case["message"] for case in WRONG.values()}) >= 40


@pytest.mark.parametrize("name", WRONG)
def test_wrong_site_file(name: str, rendered: Path) -> None:
    case = WRONG[name]
    assert case["old"] in RIGHT
    count = -1 if name == "no balancer" else 1
    (rendered / "site.toml").write_text(RIGHT.replace(case["old"], case["new"], count))
    before = tree(rendered / "out")
    result = hasite_here("render", "site.toml", "out", cwd=rendered)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip("\n") == case["message"].strip("\n")
    assert tree(rendered / "out") == before


def test_message_of_a_process(tmp_path: Path) -> None:
    """What the user sees: the message alone, on stderr, and an exit status."""
    (tmp_path / "site.toml").write_text(RIGHT.replace("[squid]", ""))
    result = hasite("render", "site.toml", "out", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "site.toml:1: squid: neither [squid] nor [varnish] is there; give one of them\n"
    )
    assert not (tmp_path / "out").exists()


def test_no_site_file(tmp_path: Path) -> None:
    result = hasite_here("render", "site.toml", "out", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "site.toml: No such file or directory\n")


def test_folder_of_something_else(rendered: Path, tmp_path: Path) -> None:
    (rendered / "site.toml").write_text(RIGHT)
    (tmp_path / "letter").write_text("Dear")
    result = hasite_here("render", "site.toml", tmp_path, cwd=rendered)
    assert result.returncode == 1
    assert result.stderr == (
        f"{tmp_path} is not empty and was not made by hasite-render; give another folder\n"
    )
    assert list(tree(tmp_path)) == ["letter"]


def test_folder_that_cannot_be_written(rendered: Path, tmp_path: Path) -> None:
    (rendered / "site.toml").write_text(RIGHT)
    (tmp_path / "file").touch()
    result = hasite_here("render", "site.toml", tmp_path / "file" / "out", cwd=rendered)
    assert result.returncode == 1
    assert "Not a directory" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_packages_missing(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `deploy` one line says what to install."""
    (tmp_path / "pydantic.py").write_text("raise ImportError(name='pydantic')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = hasite("init", cwd=rendered)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "pydantic is missing: pip install 'cubicweb-hasite[deploy]'\n"


def test_graphviz_missing(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (rendered / "site.toml").write_text(RIGHT)
    before = tree(rendered / "out")
    monkeypatch.setenv("PATH", str(rendered))
    result = hasite_here("render", "site.toml", "out", cwd=rendered)
    assert result.returncode == 1
    assert result.stderr == "Graphviz is missing, which draws: apt-get install graphviz\n"
    assert tree(rendered / "out") == before


def test_backups_of_a_database_of_somebody_else(tmp_path: Path) -> None:
    site_file = Path(__file__).parent / "sites" / "external_database.toml"
    text = f'{site_file.read_text()}\n[hosts.store]\naddress = "10.9.9.9"\nroles = ["backup"]\n'
    (tmp_path / "site.toml").write_text(f"{text}[backup]\n")
    result = hasite_here("render", "site.toml", "out", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.endswith(
        ": backup: the database is run by somebody else, who makes its backups; leave this out\n"
    )
    assert len(result.stderr.splitlines()) == 1
