"""The files that are rendered for sites of many kinds, and that the programs accept.

`make snapshots` writes the expected files again; read its diff before you commit it.
"""

import hashlib
import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from backend import POSTGRES
from deploying import SITES, UNCHECKED, example, tree  # noqa: F401
from servers.instance import Instance

from cubicweb_hasite.deploy import check, document, load, output, render
from cubicweb_hasite.deploy.site import WebSite

EXPECTED = Path(__file__).parent / "sites" / "expected"
DOCS = Path(__file__).parent.parent / "docs"
#: shown in full in what is expected of a site; of the others the digest is enough
IN_FULL = re.compile(
    r"/etc/(haproxy/hasite\.cfg|squid/hasite\.conf|varnish/hasite\.vcl|hasite/\w+\.env|"
    r"patroni/config\.yml|hasite/firewall\.nft|postgresql/.*|keepalived/.*|systemd/system/cubicweb-.*)$"
)


def test_documentation_is_up_to_date(example: Path) -> None:  # noqa: F811
    if os.environ.get("UPDATE_SNAPSHOTS"):
        (DOCS / "reference.md").write_text(document.reference())
        shutil.copy(example / "out" / "architecture.svg", DOCS)
    assert (DOCS / "reference.md").read_text() == document.reference(), "run: make snapshots"
    # where things are drawn depends on Graphviz' version, what is drawn does not
    drawings = [words(path / "architecture.svg") for path in (DOCS, example / "out")]
    assert drawings[0] == drawings[1], "run: make snapshots"


def words(drawing: Path) -> set[str | None]:
    """Return the lines of text of a drawing."""
    elements = ET.parse(drawing).iter("{http://www.w3.org/2000/svg}text")
    return {element.text for element in elements}


def test_every_kind_of_site() -> None:
    assert len(SITES) >= 10


@pytest.fixture(params=[path.stem for path in SITES])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[load.SiteFile, Path]:
    """A site file, and the folder with what it gives."""
    [path] = [path for path in SITES if path.stem == request.param]
    site_file = load.load(path)
    output.write(render.render(site_file), tmp_path / "out")
    return site_file, tmp_path / "out"


def test_site(site: tuple[load.SiteFile, Path]) -> None:
    site_file, folder = site
    files = tree(folder)
    _has_marks(files, site_file.digest)
    _is_as_expected(site_file.path.stem, files)
    assert tree_of(render.render(load.load(site_file.path))) == {
        path: file for path, file in files.items() if path != output.MANIFEST
    }
    for result in check.check(folder):
        verdict = "not checked" if UNCHECKED.search(result.path) else "ok"
        assert result.verdict == verdict, result


def tree_of(rendering: output.Rendering) -> dict[str, tuple[int, bytes]]:
    """Return a rendering in the format of :func:`deploying.tree`."""
    return {path: (file.mode, file.content) for path, file in rendering.items()}


def _has_marks(files: dict[str, tuple[int, bytes]], digest: str) -> None:
    """Each file begins with what made it, from which site file."""
    for path, (_mode, content) in files.items():
        if path != output.MANIFEST:
            beginning = b"\n".join(content.split(b"\n")[:7])
            assert re.search(rf"Made by hasite-render .*{digest}".encode(), beginning), path


def _is_as_expected(name: str, files: dict[str, tuple[int, bytes]]) -> None:
    """Compare with a snapshot: each file's mode and digest, some in full."""
    lines, texts = [], []
    for path, (mode, content) in sorted(files.items()):
        if path in (output.MANIFEST, "architecture.svg"):  # digests; by Graphviz' version
            continue
        made = rb"cubicweb-hasite \S+ from the site file [0-9a-f]{16}"
        text = re.sub(made, b"cubicweb-hasite", content).decode()
        lines.append(f"{mode:04o} {hashlib.sha256(text.encode()).hexdigest()[:12]} {path}\n")
        if IN_FULL.search(path):
            texts.append(f"\n=== {path}\n{text}")
    found = "".join(lines + texts)
    expected = EXPECTED / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(found)
    assert found == expected.read_text(), "if this is what you want: make snapshots"


@pytest.mark.skipif(not POSTGRES, reason="SQLite has no pg_hba.conf")
def test_pg_hba(postgresql) -> None:
    """PostgreSQL understands the one file that it checks only when it runs."""
    [path] = [path for path in SITES if path.stem == "no_apache"]
    rendering = render.render(load.load(path), drawing=False)
    rules = rendering["db1/etc/postgresql/15/main/pg_hba.conf"].content
    trust = b"local all all trust\nhost all all 127.0.0.1/32 trust\n"
    (postgresql.directory / "cluster" / "pg_hba.conf").write_bytes(rules + trust)
    rows = postgresql.sql(
        "SELECT type, array_to_string(database, '+'), array_to_string(user_name, '+'), address, "
        "auth_method, coalesce(error, '') FROM pg_hba_file_rules"
    )
    assert rows.splitlines()[:-2] == [
        "local|all|postgres||peer|",
        "local|replication|postgres||peer|",
        "host|replication|replicator|10.0.0.31|scram-sha-256|",
        "host|replication|replicator|10.0.0.32|scram-sha-256|",
        "host|mysite|mysite|10.0.0.21|scram-sha-256|",
        "host|mysite|mysite|10.0.0.22|scram-sha-256|",
    ]


def test_certificate_beside_the_site_file(tmp_path: Path) -> None:
    """It is copied to the balancers."""
    [path] = [path for path in SITES if path.stem == "no_tls"]
    certificate = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
    (tmp_path / "www.pem").write_text(certificate)
    secure = 'url = "https://www.example.org/"\ncertificate = "www.pem"'
    text = path.read_text().replace('url = "http://www.example.org/"', secure)
    (tmp_path / "site.toml").write_text(text)
    rendering = render.render(load.load(tmp_path / "site.toml"), drawing=False)
    for balancer in ("lb1", "lb2"):
        assert rendering[f"{balancer}/etc/haproxy/certs/www.pem"].content.decode() == certificate
        assert (
            b"}/etc/haproxy/certs/www.pem"
            in rendering[f"{balancer}/etc/haproxy/hasite.cfg"].content
        )


def test_drawing(example: Path) -> None:  # noqa: F811
    """It shows every host; it is looked at by people."""
    drawn = words(example / "out" / "architecture.svg")
    assert {"visitors", "lb1", "lb2", "web1", "web2", "db1", "db2", "db3", "monitor"} <= drawn
    assert {"10.0.0.21", "Squid 81-82", "PostgreSQL 5432", "CubicWeb mysite x 2"} <= drawn


def test_check_storage(instance: Instance, example: Path, tmp_path: Path) -> None:  # noqa: F811
    """What is kept on the disk of one web server is found."""
    script = example / "out/web1/usr/local/share/hasite/check_storage.py"
    assert "All data is in the database." in instance.ctl("shell", instance.name, str(script))
    on_disk = tmp_path / "on_disk.py"
    on_disk.write_text(
        "from cubicweb.server.sources.storages import BytesFileSystemStorage\n"
        f"storage = BytesFileSystemStorage({str(tmp_path)!r})\n"
        "repo.system_source.set_storage('File', 'data', storage)\n"
        f"exec({script.read_text()!r})\n"
    )
    with pytest.raises(RuntimeError, match=r"File\.data is kept by BytesFileSystemStorage"):
        instance.ctl("shell", instance.name, str(on_disk))


@pytest.mark.parametrize(
    ("url", "host", "same", "others"),
    [
        (
            "https://www.example.org:443/",
            "www.example.org",
            ["www.example.org", "www.example.org.", "www.example.org:80", "www.example.org.:443"],
            ["www.example.org:8000", "wwwxexample.org", "example.org", "www.example.org..", ""],
        ),
        (
            "http://www.example.org:8000/",
            "www.example.org:8000",
            ["www.example.org:8000", "www.example.org.:8000"],
            ["www.example.org", "www.example.org:80", "www.example.org:80000"],
        ),
        ("http://[2001:db8::1]/", "[2001:db8::1]", ["[2001:db8::1]:80"], ["2001:db8::1"]),
    ],
)
def test_host(url: str, host: str, same: list[str], others: list[str]) -> None:
    """What visitors may send in `Host`, and what is behind the balancer."""
    web_site = WebSite(url=url)
    assert web_site.host == host
    for value in (host, *same):
        assert re.search(web_site.host_pattern, value), value
    for value in others:
        assert not re.search(web_site.host_pattern, value), value
