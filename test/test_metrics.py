"""`/metrics`, for Prometheus."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from pictures import picture
from prometheus_client.parser import text_string_to_metric_families
from servers.instance import Instance, Process
from servers.support import free_port, wait_until
from servers.visitor import Visitor
from test_monitor_states import Site, site, visitors_who_wait  # noqa: F401


class Management:
    """The management port of a process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/metrics"

    def figures(self) -> dict[str, float]:
        """Return the metrics, by their names and labels as Prometheus writes them."""
        response = requests.get(self.url, timeout=30)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = {}
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                name = f"{sample.name}{{{labels}}}" if labels else sample.name
                assert name not in found
                found[name] = sample.value
        return found


def start(instance: Instance, **options: object) -> tuple[Process, Management]:
    """Return a process, to be started, and its management port."""
    port = free_port()
    return instance.process(hasite_management_port=port, **options), Management(port)


def settled(management: Management) -> dict[str, float]:
    """Return the figures once the process has read what it remembers of the database."""
    in_use = 'hasite_pool_connections{state="in_use"}'
    wait_until(lambda: management.figures()[in_use] == 0, "the pool to be idle")
    return management.figures()


@pytest.fixture
def watched(instance: Instance) -> Iterator[tuple[Process, Management]]:
    process, management = start(instance)
    with process:
        yield process, management


def test_visitors(watched: tuple[Process, Management]) -> None:
    """Answers, downloads, replacements and redirects are counted, and nothing else is."""
    process, management = watched
    before = management.figures()

    def grown() -> dict[str, float]:
        """What has grown, but for what each scrape measures."""
        now = management.figures()
        return {
            name: value - before[name]
            for name, value in now.items()
            if name.startswith("hasite_") and "_total" in name and value != before[name]
        }

    for name in ("monitor_db", "monitor_pool"):
        requests.get(f"{process.url}view?vid={name}", timeout=30)
    requests.get(f"{process.url}readyz", timeout=30)
    assert grown() == {}

    admin = Visitor(process.url)
    admin.login()
    upload = {"data": ("a.png", picture("red"), "image/png")}
    location = admin.create("File", files=upload).headers["Location"]
    eid = int(re.search(r"/file/(\d+)", location)[1])
    before = management.figures()
    visitor = Visitor(process.url)
    path = f"file/{eid}/raw/a.png"
    etag = visitor.get(path).headers["ETag"]
    visitor.get(path, headers={"If-None-Match": etag})
    visitor.get(path, headers={"Range": "bytes=0-3"})
    visitor.get(path, headers={"Range": "bytes=100000000-"})
    visitor.get(f"view?rql=File X WHERE X eid {eid}&vid=download")
    assert {key: value for key, value in grown().items() if "downloads" in key} == {
        'hasite_downloads_total{status="200",visibility="public"}': 1,
        'hasite_downloads_total{status="304",visibility="public"}': 1,
        'hasite_downloads_total{status="206",visibility="public"}': 1,
        'hasite_downloads_total{status="other",visibility="public"}': 1,
        'hasite_downloads_total{status="200",visibility="private"}': 1,
    }

    before = management.figures()
    response = admin.edit(eid, "File", files={"data": ("a.png", picture("blue"), "image/png")})
    assert response.status_code == 303
    assert grown()["hasite_replacements_total"] == 1
    before = management.figures()
    assert admin.get(path).status_code == 301
    assert grown() == {
        'hasite_http_responses_total{status="3xx"}': 1,
        "hasite_former_url_redirects_total": 1,
    }
    before = management.figures()
    assert visitor.get("file/2147483647").status_code == 404
    assert grown() == {'hasite_http_responses_total{status="4xx"}': 1}
    before = management.figures()
    assert visitor.get("login").status_code == 200
    assert grown() == {'hasite_http_responses_total{status="2xx"}': 1}


def test_what_is_read_at_each_scrape(instance: Instance) -> None:
    cache = f"http://127.0.0.1:{free_port()}/"  # nobody is there
    process, management = start(instance, hasite_purge_urls=cache, connections_pool_max_size=7)
    with process:
        figures = settled(management)
        assert figures['hasite_probe_success{probe="db"}'] == 1
        assert figures['hasite_probe_success{probe="version"}'] == 1
        assert 0 < figures['hasite_probe_duration_seconds{probe="db"}'] < 10
        assert figures["hasite_pool_max_connections"] == 7
        assert figures['hasite_pool_connections{state="in_use"}'] == 0
        assert figures['hasite_pool_connections{state="idle"}'] >= 1
        assert figures["hasite_draining"] == 0
        assert figures[f'hasite_purges_queued{{cache="{cache}"}}'] == 0
        [build] = [name for name in figures if name.startswith("hasite_build_info")]
        assert 'version="' in build
        cubes = {name for name in figures if name.startswith("hasite_cube_info")}
        assert any('cube="file"' in name for name in cubes)

        flag = instance.directory / f"{instance.name}.draining"
        flag.touch()
        try:
            assert management.figures()["hasite_draining"] == 1
        finally:
            flag.unlink()

        admin = Visitor(process.url)
        admin.login()
        upload = {"data": ("a.png", picture("red"), "image/png")}
        location = admin.create("File", files=upload).headers["Location"]
        eid = int(re.search(r"/file/(\d+)", location)[1])
        admin.edit(eid, "File", files={"data": ("a.png", picture("blue"), "image/png")})
        assert management.figures()[f'hasite_purges_queued{{cache="{cache}"}}'] > 0
        failed = f'hasite_purges_total{{cache="{cache}",result="failed"}}'
        wait_until(lambda: management.figures()[failed] > 0, "purges to fail")


def test_database_stopped_and_pool_exhausted(site: Site) -> None:  # noqa: F811
    process, management = start(
        site.instance, db_port=site.postgresql.port, connections_pool_max_size=2
    )
    with process:
        settled(management)
        with visitors_who_wait(site, process, 2):
            figures = management.figures()
            assert figures['hasite_pool_connections{state="in_use"}'] == 2
            assert figures["hasite_pool_wait_seconds_count"] == 0
            with ThreadPoolExecutor() as executor:  # it waits for a connection of the pool
                page = executor.submit(requests.get, f"{process.url}file", timeout=60)
                wait_until(
                    lambda: management.figures()["hasite_pool_wait_seconds_count"] > 0,
                    "a visitor to have waited",
                )
        assert page.result().status_code == 503
        site.postgresql.stop()
        try:
            figures = management.figures()
            assert figures['hasite_probe_success{probe="db"}'] == 0
            assert figures['hasite_probe_success{probe="version"}'] == 0
            errors = 'hasite_http_responses_total{status="5xx"}'
            assert requests.get(f"{process.url}file", timeout=60).status_code == 503
            assert management.figures()[errors] == figures[errors] + 1
        finally:
            site.postgresql.start()
        assert management.figures()['hasite_probe_success{probe="db"}'] == 1


def test_beside_cubicweb_prometheus(
    server_directory: Callable[[str], Path], new_database: Callable
) -> None:
    """One registry, each metric once; on the port of visitors the other cube answers."""
    instance = Instance(
        server_directory("instance"), ["hasite", "file", "prometheus"], new_database()
    )
    instance.create()
    ini = instance.directory / instance.name / "pyramid.ini"
    settings = "".join(
        f"prometheus.pyramid.{name} = True\n"
        for name in ("http_requests", "current_requests", "slow_routes", "count_routes")
    )
    ini.write_text(ini.read_text().replace("[main]\n", f"[main]\n{settings}"))
    process, management = start(instance)
    with process:
        Visitor(process.url).get()
        for url in (management.url, f"{process.url}metrics"):
            response = requests.get(url, timeout=30)
            assert response.status_code == 200
            assert "hasite_http_responses_total" in response.text
            assert "pyramid_route_count_total" in response.text
            names = re.findall(r"^# TYPE (\S+)", response.text, re.M)
            assert len(names) == len(set(names))
        for name in ("monitor_db", "monitor_version"):
            assert requests.get(f"{process.url}view?vid={name}", timeout=30).status_code == 200


def test_without_the_extra(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prometheus_client.py").write_text('raise ImportError("hidden by the test")\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process, management = start(instance)
    with process:
        response = requests.get(management.url, timeout=30)
        assert response.status_code == 501
        assert response.text == (
            "ServiceKO : to have metrics, run: pip install 'cubicweb-hasite[metrics]'"
        )
        assert requests.get(f"{process.url}readyz", timeout=30).status_code == 200
        admin = Visitor(process.url)
        admin.login()
        upload = {"data": ("a.png", picture("red"), "image/png")}
        assert admin.create("File", files=upload).status_code == 303
