"""What is shipped for monitoring systems, run by their own programs in each state."""

import functools
import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

import pytest
import requests
from servers.instance import Instance
from servers.support import find_program, free_port
from test_monitor_states import Site, site, visitors_who_wait  # noqa: F401

import cubicweb_hasite
from cubicweb_hasite.deploy import dashboards, document, load, output, render

#: the site whose checks are run
SITE = Path(__file__).parent / "sites" / "one_host.toml"
FILES = Path(cubicweb_hasite.__file__).with_name("monitoring")
CHECK_HTTP = find_program("check_http", "monitoring-plugins-basic", "/usr/lib/nagios/plugins")
PROMTOOL = find_program("promtool", "prometheus")
ALERTS_TEST = Path(__file__).with_name("alerts_test.yml")
VISITS_TEST = Path(__file__).with_name("visits_alerts_test.yml")
OK, WARNING, CRITICAL = 0, 1, 2


def nagios_configuration() -> str:
    """Return the objects of Nagios of the example site."""
    rendering = render.render(load.load(SITE), drawing=False)
    return rendering["all/etc/nagios4/conf.d/hasite.cfg"].content.decode()


@functools.cache
def commands() -> dict[str, str]:
    """Return the command lines that check an instance, by the names of the checks.

    Address and port are still macros, as in `$ADDRESS$`.
    """
    text = nagios_configuration()
    [line] = re.findall(r"command_name hasite-http-text\n +command_line (.*)", text)
    services = r"service_description \w+ instance 1 (\w+)\n +check_command +hasite-http-text!(.*)"
    found = {}
    for name, arguments in re.findall(services, text):
        _address, _port, *others = arguments.replace("$$", "\0").split("!")
        command = line
        for number, argument in enumerate(["$ADDRESS$", "$PORT$", *others], 1):
            command = command.replace(f"$ARG{number}$", argument)
        found[name.removeprefix("monitor_")] = command
    return found


def run(command: str, port: int) -> subprocess.CompletedProcess[str]:
    """Run a command line as Nagios does, with its macros."""
    command = command.replace("$ADDRESS$", "127.0.0.1").replace("$PORT$", str(port))
    command = command.replace("/usr/lib/nagios/plugins/", f"{Path(CHECK_HTTP).parent}/")
    assert not re.search(r"\$_?[A-Z]+", command), command
    command = command.replace("\0", "$")
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)


def check(port: int, *critical: str) -> dict[str, str]:
    """Assert which checks are critical, the others being healthy, and return what they print."""
    said = {}
    for name, command in commands().items():
        result = run(command, port)
        # a busy machine is slow
        expected = (CRITICAL,) if name in critical else (OK, WARNING)
        assert result.returncode in expected, (name, result.stdout, result.stderr)
        said[name] = result.stdout
    return said


@contextmanager
def stopped(site: Site) -> Iterator[None]:  # noqa: F811
    site.postgresql.stop()
    try:
        yield
    finally:
        site.postgresql.start()


@contextmanager
def hung(site: Site) -> Iterator[None]:  # noqa: F811
    site.postgresql.pause()
    try:
        yield
    finally:
        site.postgresql.resume()


@contextmanager
def standby(site: Site) -> Iterator[None]:  # noqa: F811
    site.postgresql.demote()
    try:
        yield
    finally:
        site.postgresql.promote()


@contextmanager
def refusing(site: Site) -> Iterator[None]:  # noqa: F811
    with closing(site.connect()) as connection:
        site.postgresql.require_password(True)
        # the probes open another connection every 30 seconds
        connection.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'hasite-probes'"
        )
    try:
        yield
    finally:
        site.postgresql.require_password(False)


@contextmanager
def other_versions(site: Site) -> Iterator[None]:  # noqa: F811
    where = "WHERE cw_pkey = 'system.version.file'"
    version = site.sql(f"SELECT cw_value FROM cw_cwproperty {where}")
    site.sql(f"UPDATE cw_cwproperty SET cw_value = '0.0.1' {where}")
    try:
        yield
    finally:
        site.sql(f"UPDATE cw_cwproperty SET cw_value = '{version}' {where}")


@contextmanager
def draining(site: Site) -> Iterator[None]:  # noqa: F811
    site.flag.touch()
    try:
        yield
    finally:
        site.flag.unlink()


@pytest.mark.parametrize(
    ("state", "critical", "said"),
    [
        (lambda _site: nullcontext(), (), {"db": "ServiceOK : 2 users in DB"}),
        (stopped, ("db", "version", "ready"), {"db": "503"}),
        (hung, ("db", "version", "ready"), {"ready": "503"}),
        (standby, ("db", "ready"), {"db": "it is a standby"}),
        (refusing, ("db", "version", "ready"), {"db": "the user or the password"}),
        (other_versions, ("version", "ready"), {"version": "file: 0.0.1"}),
        (draining, ("ready",), {"ready": "draining"}),
    ],
)
def test_nagios(
    site: Site,  # noqa: F811
    state: Callable[[Site], AbstractContextManager[None]],
    critical: tuple[str, ...],
    said: dict[str, str],
) -> None:
    # a process cannot be started in some of the states
    with site.instance.process() as process, state(site):
        found = check(process.port, *critical)
    for name, text in said.items():
        assert text in found[name], found[name]


def test_nagios_pool_exhausted(site: Site) -> None:  # noqa: F811
    with (
        site.instance.process(connections_pool_max_size=2) as process,
        visitors_who_wait(site, process, 2),
    ):
        said = check(process.port, "pool", "ready")
    assert "100.0%" in said["pool"]


def test_nagios_instance_gone_or_without_monitors(site: Site) -> None:  # noqa: F811
    check(free_port(), *commands())
    with site.instance.process(hasite_monitor_access="closed") as process:
        check(process.port, *commands())


def test_nagios_configuration() -> None:
    """Each monitor is checked."""
    assert set(commands()) == {"live", "ready", "db", "version", "pool", "hostname"}


def test_prometheus_alerts() -> None:
    for arguments in (["check", "rules", FILES / "alerts.yml"], ["test", "rules", ALERTS_TEST]):
        result = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    names = set(re.findall(r"alert: (\w+)", (FILES / "alerts.yml").read_text()))
    assert names == set(re.findall(r"alertname: (\w+)", ALERTS_TEST.read_text()))


def test_alerts_of_hosts(tmp_path: Path) -> None:
    """The alerts of the programs on the hosts, as they are rendered."""
    folder = "all/etc/prometheus/hasite"
    rendering = render.render(load.load(SITE), drawing=False)
    for name in ("host.rules.yml", "postgresql.rules.yml"):
        (tmp_path / name).write_bytes(rendering[f"{folder}/{name}"].content)
    test = tmp_path / "test.yml"
    test.write_text(ALERTS_TEST.with_name("hosts_alerts_test.yml").read_text())
    result = subprocess.run([PROMTOOL, "test", "rules", test], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_of_a_site_that_tells_somebody(tmp_path: Path) -> None:
    """The alerts that are there with [alerts] alone, as the example renders them."""
    rendering = rendered_example(tmp_path)
    test = VISITS_TEST.read_text()
    for name in re.findall(r"(\S+\.rules\.yml)", test):
        rules = rendering[f"monitor/etc/prometheus/hasite/{name}"].content
        (tmp_path / name).write_bytes(rules)
    (tmp_path / "test.yml").write_text(test)
    result = subprocess.run(
        [PROMTOOL, "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for program in ("visits", "prometheus", "alertmanager"):
        for alert in dashboards.load_metrics()[program]["alerts"]:
            assert alert["name"] in test


def test_each_alert_says_what_to_do(tmp_path: Path) -> None:
    """In its annotations, and in the runbook, to which they lead."""
    rendering = rendered_example(tmp_path)
    runbook = rendering["runbook.md"].content.decode()
    found = set()
    for path, file in rendering.items():
        if path.endswith(".rules.yml"):
            for alert in re.split(r"(?m)^ *- alert: ", file.content.decode())[1:]:
                name = re.match(r"\w+", alert)[0]
                for key in ("effect", "todo", "runbook"):
                    assert len(re.findall(rf'(?m)^ {{10}}{key}: "', alert)) == 1, alert
                assert f'runbook: "runbook.md#{name.lower()}"' in alert
                assert f"\n### {name}\n" in runbook
                found.add(name)
    assert found == set(re.findall(r"(?m)^### (\w+)$", runbook))
    written = tomllib.loads((FILES / "actions.toml").read_text())
    names = [a["name"] for m in dashboards.load_metrics().values() for a in m.get("alerts", [])]
    names += re.findall(r"alert: (\w+)", dashboards.cubicweb_alerts())
    assert set(names) == set(written)


def test_without_alerts_nobody_is_told() -> None:
    """Nothing of it is rendered."""
    rendering = render.render(load.load(SITE), drawing=False)
    assert not [path for path in rendering if "alertmanager" in path or "blackbox" in path]
    text = "".join(file.content.decode() for file in rendering.values())
    for word in ("alertmanager", "blackbox", "effect:", "an alert arrives"):
        assert word not in text.lower(), word


def test_two_alertmanagers(tmp_path: Path) -> None:
    """They know each other, by TCP and UDP; the firewall lets in one and the other."""
    second = '[hosts.monitor2]\naddress = "10.0.0.42"\nroles = ["monitoring"]\n'
    outside = 'dead_man = "https://alive.example.net/site"\noutside = "[2001:db8::9]:9115"\n'
    text = document.example().replace("[sites.", f"{second}\n[sites.", 1)
    text = text.replace("starttls = false\n", f"starttls = false\n{outside}")
    rendering = rendered_example(tmp_path, text)
    for name, own, other in (("monitor", 41, 42), ("monitor2", 42, 41)):
        program = rendering[f"{name}/etc/default/prometheus-alertmanager"].content.decode()
        assert f"--cluster.listen-address=10.0.0.{own}:9094" in program
        assert f"--cluster.peer=10.0.0.{other}:9094" in program
        rules = rendering[f"{name}/etc/hasite/firewall.nft"].content.decode()
        for protocol, port in (("udp", 9094), ("tcp", 9094), ("tcp", 9115)):
            lets_in = f"ip saddr {{ 10.0.0.{other} }} {protocol} dport {{ {port} }} accept"
            assert rules.count(lets_in) == 1, lets_in
        for port in (9090, 9093):
            assert f"{{ 10.0.0.{other}, 10.0.0.2 }} tcp dport {{ {port} }} accept" in rules
    table = rendering["README.md"].content.decode()
    assert "| monitor2 | monitor | UDP 9094 | Alertmanager: its peers |\n" in table
    both = "| monitor, monitor2 |"
    assert f"{both} 10.0.0.99 | 25 | mails of alerts |\n" in table
    assert f"{both} alive.example.net | 443 | dead man's switch |\n" in table
    assert f"{both} 2001:db8::9 | 9115 | visits of the sites from there |\n" in table


def rendered_example(tmp_path: Path, text: str | None = None) -> output.Rendering:
    """Return the files of the example, or of a text that was made from it."""
    (tmp_path / "site.toml").write_text(text or document.example())
    return render.render(load.load(tmp_path / "site.toml"), drawing=False)


def test_alerts_of_backups(tmp_path: Path) -> None:
    """Those of a site with pgBackRest, in place of those without."""
    rendering = render.render(load.load(SITE.with_name("backup.toml")), drawing=False)
    rules = rendering["store/etc/prometheus/hasite/postgresql.rules.yml"].content
    assert rules.count(b"alert: BackupOld") == 1
    (tmp_path / "postgresql.rules.yml").write_bytes(rules)
    test = tmp_path / "test.yml"
    test.write_text(ALERTS_TEST.with_name("backup_alerts_test.yml").read_text())
    result = subprocess.run([PROMTOOL, "test", "rules", test], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_metrics_exist(instance: Instance) -> None:
    """The alerts and the dashboard ask for metrics, and labels, that an instance has."""
    port = free_port()
    cache = f"http://127.0.0.1:{free_port()}/"
    with instance.process(hasite_management_port=port, hasite_purge_urls=cache):
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    labels: dict[str, set[str]] = {}
    for name, pairs in re.findall(r"^(\w+)(?:\{(.*)\})? ", text, re.M):
        labels.setdefault(name, {"job", "instance"}).update(re.findall(r'(\w+)="', pairs))
    queries = dashboard_queries("cubicweb")
    assert len(queries) > 10
    queries += re.findall(r"(?:expr: |^ {10}\S).*", (FILES / "alerts.yml").read_text(), re.M)
    for query in queries:
        for name, matchers in re.findall(r"(hasite_\w+)(?:\{([^}]*)\})?", query):
            assert name in labels, query
            assert set(re.findall(r"(\w+)=", matchers)) <= labels[name], query
    shown = set(re.findall(r"hasite_\w+", " ".join(queries)))
    assert {name for name in labels if name.startswith("hasite_")} <= {
        *shown,
        *(name for name in labels if name.endswith(("_bucket", "_created"))),
    }


def dashboard_queries(program: str) -> list[str]:
    """Return the queries of a dashboard."""
    dashboard = json.loads(
        dashboards.dashboard(program, dashboards.load_metrics()[program], "description")
    )
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("program", dashboards.load_metrics())
def test_dashboard_queries(program: str) -> None:
    """Prometheus accepts the queries."""
    rules = [
        {"record": f"q{number}", "expr": query}
        for number, query in enumerate(dashboard_queries(program))
    ]
    result = subprocess.run(
        [PROMTOOL, "check", "rules", "/dev/stdin"],
        input=json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(rules)} rules found" in result.stdout
