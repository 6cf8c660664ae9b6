"""The files for containers agree with the instance, and with each other.

`tools/container` builds the image and tries it.
"""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from documents import CHECKOUT

from cubicweb_hasite import names
from cubicweb_hasite.commands.instances import DrainCommand
from cubicweb_hasite.deploy import limits
from cubicweb_hasite.deploy.sections import Instances
from cubicweb_hasite.options import cache_url
from cubicweb_hasite.site_cubicweb import options

DOCUMENT = (CHECKOUT / "docs" / "containers.md").read_text()
CONTAINERFILE = (CHECKOUT / "Containerfile").read_text()
START = CHECKOUT / "container" / "start.py"
MANIFESTS = [
    manifest
    for block in re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.M | re.S)
    for manifest in yaml.safe_load_all(block)
]
#: a version of Kubernetes whose schemas are tried
KUBERNETES = "1.34"
#: what each command of the image needs, as docs/containers.md says
NEEDED = {
    "serve": ["CW_BASE_URL", "CW_DB_HOST", "CW_DB_NAME", "CW_DB_USER", "COOKIE_SECRET"],
    "create": ["CW_BASE_URL", "CW_DB_HOST", "CW_DB_NAME", "CW_DB_USER", "CW_PASSWORD"],
    "upgrade": ["CW_BASE_URL", "CW_DB_HOST", "CW_DB_NAME", "CW_DB_USER", "CW_PASSWORD"],
}


def manifest(kind: str) -> dict[str, Any]:
    """Return the manifest of a kind."""
    [found] = [each for each in MANIFESTS if each["kind"] == kind]
    return found


def pod(kind: str) -> dict[str, Any]:
    """Return the description of the pods that a manifest makes."""
    return manifest(kind)["spec"]["template"]["spec"]


def environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    [block] = re.findall(r"^ENV (LANG=.*?[^\\])\n", CONTAINERFILE, re.M | re.S)
    return dict(re.findall(r"(\w+)=(\S*)", block))


def gunicorn() -> dict[str, Any]:
    """Return gunicorn's settings."""
    os.environ.setdefault("CW_PORT", environment()["CW_PORT"])
    return runpy.run_path(str(CHECKOUT / "container" / "gunicorn.conf.py"))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_schema(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_ports() -> None:
    [container] = pod("Deployment")["containers"]
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert ports == {
        "http": environment()["CW_PORT"],
        "monitors": environment()["CW_HASITE_MANAGEMENT_PORT"],
    }
    assert f"EXPOSE {' '.join(ports.values())}\n" in CONTAINERFILE
    # visitors do not get to the management port
    [port] = manifest("Service")["spec"]["ports"]
    assert port["targetPort"] == "http"
    for name, default in environment().items():
        if name.endswith("PORT"):
            assert f"| `{name}` | {default} |" in DOCUMENT


def test_probes() -> None:
    """They ask for the monitors that they should, and wait longer than those may take."""
    [container] = pod("Deployment")["containers"]
    expected = {"startup": names.LIVEZ, "liveness": names.LIVEZ, "readiness": names.READYZ}
    for name, path in expected.items():
        assert container[f"{name}Probe"]["httpGet"] == {"path": path, "port": "monitors"}
    deadline = dict(options)["hasite-probe-deadline"]["default"]
    assert container["readinessProbe"]["timeoutSeconds"] > 2 * deadline
    assert f'["start.py", "health", "{names.LIVEZ}"]' in CONTAINERFILE


def test_grace_period() -> None:
    """Kubernetes counts preStop in it."""
    spec = pod("Deployment")
    [container] = spec["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    program, name, *arguments, instance = command
    assert (program, name, instance) == ("cubicweb-ctl", DrainCommand.name, "site")
    assert instance == environment()["CW_INSTANCE"]
    [timeout] = [int(each.partition("=")[2]) for each in arguments if "--timeout" in each]
    given = {each.removeprefix("--").partition("=")[0] for each in arguments}
    assert given <= {name for name, _option in DrainCommand.options}
    assert "--wait" in arguments
    graceful = gunicorn()["graceful_timeout"]
    assert spec["terminationGracePeriodSeconds"] >= timeout + graceful + 5
    [stop] = re.findall(r"^podman stop --time (\d+) ", DOCUMENT, re.M)
    assert int(stop) >= graceful + 5


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_rights(kind: str) -> None:
    """They are those that the image needs: no root, and /tmp to write to."""
    spec = pod(kind)
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    [user, group] = re.findall(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.M)[0]
    assert int(user) > 0
    assert spec["securityContext"]["fsGroup"] == int(group)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {"/tmp": "tmp", "/run/secrets": "secrets"}
    assert set(mounts.values()) == {volume["name"] for volume in spec["volumes"]}
    written = [path for path in environment().values() if path.startswith("/")]
    assert len(written) >= 4
    assert all(path.startswith("/tmp/") for path in written)
    assert spec["enableServiceLinks"] is False
    # its mount would be in the way of the secrets
    assert spec["automountServiceAccountToken"] is False


def test_settings() -> None:
    """The ConfigMap and the Secrets have all that is needed, and only what an instance reads."""
    keys = set(manifest("ConfigMap")["data"])
    secrets = {
        name: set(re.findall("`([A-Z_]+)`", text))
        for name, text in re.findall(
            r"Secret\s`([\w-]+)`\swith\sthe\skeys?\s(.*?)(?:,\sand|:)", DOCUMENT, re.S
        )
    }
    assert set(secrets) == {"mysite", "mysite-manager"}
    assert set(NEEDED["serve"]) <= keys | secrets["mysite"]
    assert set(NEEDED["upgrade"]) <= keys | secrets["mysite"] | secrets["mysite-manager"]
    known = {f"CW_{name.replace('-', '_').upper()}" for name, _option in options}
    assert {key for key in keys if key.startswith("CW_HASITE_")} <= known
    for url in manifest("ConfigMap")["data"]["CW_HASITE_PURGE_URLS"].split(","):
        cache_url(url)
    for kind in ("Deployment", "Job"):
        [container] = pod(kind)["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "mysite"}}]


def test_rolling_update() -> None:
    """A pod ends only when another is ready; its Service and budget are about the same pods."""
    deployment = manifest("Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    budget = manifest("PodDisruptionBudget")["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert budget["maxUnavailable"] < deployment["replicas"]
    assert manifest("Job")["spec"]["template"]["spec"]["containers"][0]["args"] == ["upgrade"]


def test_gunicorn() -> None:
    """It runs as on a rendered host."""
    settings = gunicorn()
    assert settings["workers"] == 1
    assert settings["threads"] == Instances.model_fields["threads"].default
    assert settings["graceful_timeout"] == Instances.model_fields["graceful_seconds"].default
    unit = CHECKOUT / "cubicweb_hasite/deploy/templates/systemd/cubicweb@.service"
    given = re.findall(r"--worker-class (\w+) .* --keep-alive (\d+) ", unit.read_text())
    assert given == [(settings["worker_class"], str(settings["keepalive"]))]
    assert settings["limit_request_line"] == limits.REQUEST_LINE
    assert settings["limit_request_field_size"] == limits.FIELD
    assert settings["limit_request_fields"] == limits.FIELDS


def start(command: str, variables: dict[str, str], secrets: Path) -> tuple[int, str]:
    """Run the first program of a container; return its status and what it wrote."""
    result = subprocess.run(
        [sys.executable, START, command],
        env={"PATH": os.environ["PATH"], "SECRETS_DIR": str(secrets), **variables},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("command", "missing"), [(command, name) for command in NEEDED for name in NEEDED[command]]
)
def test_missing_setting(command: str, missing: str, tmp_path: Path) -> None:
    given = {name: "x" * 32 for name in NEEDED[command] if name != missing}
    for variables in (given, {**given, missing: ""}):
        status, text = start(command, variables, tmp_path)
        assert status == 2
        assert text == f"start.py: {command} needs {missing}: not set\n"


def test_all_settings_are_missing(tmp_path: Path) -> None:
    status, text = start("serve", {}, tmp_path)
    assert status == 2
    assert text == f"start.py: serve needs {', '.join(NEEDED['serve'])}: not set\n"


def test_secret_in_a_file(tmp_path: Path) -> None:
    """It counts, and the environment comes first."""
    variables = {name: "x" * 32 for name in NEEDED["serve"] if name != "COOKIE_SECRET"}
    (tmp_path / "COOKIE_SECRET").write_text("short\n")
    status, text = start("serve", variables, tmp_path)
    assert status == 2
    assert text == "start.py: COOKIE_SECRET: 5 characters, which is less than 32\n"
    status, text = start("serve", {**variables, "COOKIE_SECRET": "shorter"}, tmp_path)
    assert text == "start.py: COOKIE_SECRET: 7 characters, which is less than 32\n"


def test_secret_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "CW_DB_PASSWORD").mkdir()
    status, text = start("serve", dict.fromkeys(NEEDED["serve"], "x" * 32), tmp_path)
    assert status == 2
    assert text.startswith("start.py: ")
    assert f"'{tmp_path}/CW_DB_PASSWORD'" in text
    assert "Traceback" not in text
