"""The image, and containers of it, by the commands of docs/containers.md.

`tools/container` says by environment variables how podman is to be called on this machine.
"""

import itertools
import json
import os
import re
import subprocess
from pathlib import Path

import requests
from servers.support import Server, free_port, wait_until

CHECKOUT = Path(__file__).resolve().parent.parent
#: what the commands call the image, the container and the secrets, and what they are called here
_DOCUMENTED, NAME = "mysite", "hasite-container-test"
#: podman with the options of this machine
_PODMAN = """\
podman() {
    local command=$1
    shift
    case $command in
    run) set -- $PODMAN_RUN "$@" ;;
    build) set -- $PODMAN_BUILD "$@" ;;
    esac
    command $PODMAN "$command" "$@"
}
"""
BUILD, BUILD_APPLICATION, SECRETS, CREATE, SERVE, STOP, UPGRADE = re.findall(
    r"^```sh\n(.*?)^```$", (CHECKOUT / "docs" / "containers.md").read_text(), re.M | re.S
)


def run(
    script: str, folder: Path, *, check: bool = True, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a script of the document in a folder, with the names that are used here.

    :param check: whether it must succeed
    :raises RuntimeError: it failed.
    """
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _PODMAN + script.replace(_DOCUMENTED, NAME)],
        cwd=folder,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check and result.returncode:
        raise RuntimeError(f"{script}: {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman and return what it wrote on its standard output.

    :raises RuntimeError: it failed.
    """
    command = [*os.environ["PODMAN"].split(), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if check and result.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {result.stdout}\n{result.stderr}")
    return result.stdout


class Container(Server):
    """A container that serves the instance, on ports of its own.

    :param folder: the folder with `site.env`
    :param options: options of `podman run` besides those of the document
    :param secrets: a folder with the secrets, in place of those of podman
    """

    _numbers = itertools.count(1)

    def __init__(self, folder: Path, *options: str, secrets: Path | None = None) -> None:
        self.folder = folder
        self.name = f"{NAME}-{next(self._numbers)}"
        #: ports of visitors and of monitors
        self.port, self._management_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        variables = {
            "CW_BASE_URL": self.url,
            "CW_PORT": self.port,
            "CW_HASITE_MANAGEMENT_PORT": self._management_port,
        }
        added = [f"--env={name}={value}" for name, value in variables.items()]
        script = SERVE.replace(f"--name {_DOCUMENTED}", f"--name {self.name}")
        if secrets is not None:
            script = re.sub(r"--secret \S+ ", "", script)
            added.append(f"--volume={secrets}:/run/secrets:ro")
        self._script = script.replace("--read-only", " ".join(["--read-only", *added, *options]))

    def start(self) -> None:
        """Start it, and wait until it serves.

        :raises RuntimeError: it ended.
        :raises TimeoutError: it does not serve in time.
        """
        self.spawn()
        try:
            wait_until(lambda: not self.running or self.answers("/readyz"), "container")
            if not self.running:
                raise RuntimeError(f"it ended: {self.log}")
        except BaseException:
            self.remove()
            raise

    def spawn(self) -> None:
        """Start it."""
        self.remove()
        run(self._script, self.folder)

    def stop(self) -> None:
        """Remove it, whether it runs or not."""
        self.remove()

    def remove(self) -> None:
        """Remove it, whether it runs or not, if it is there."""
        podman("rm", "--force", "--ignore", "--time", "0", self.name)

    @property
    def state(self) -> dict:
        """What `podman inspect` says of its state."""
        [inspected] = json.loads(podman("inspect", self.name))
        return inspected["State"]

    @property
    def running(self) -> bool:
        """Whether its first program runs."""
        return self.state["Running"]

    @property
    def log(self) -> str:
        """What it has written."""
        result = subprocess.run(
            [*os.environ["PODMAN"].split(), "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return result.stdout

    def exec(self, *command: str) -> str:
        """Run a command in it and return what it wrote.

        :raises RuntimeError: it failed.
        """
        return podman("exec", self.name, *command)

    def monitor(self, path: str) -> requests.Response:
        """Ask the management port."""
        return requests.get(f"http://127.0.0.1:{self._management_port}{path}", timeout=30)

    def answers(self, path: str) -> bool:
        """Return whether a monitor answers 200."""
        try:
            return self.monitor(path).status_code == 200
        except requests.RequestException:
            return False

    def healthy(self, path: str) -> bool:
        """Return whether the image's health check of a path passes."""
        try:
            self.exec("start.py", "health", path)
        except RuntimeError:
            return False
        return True

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit status.

        :param timeout: how long, in seconds
        :raises TimeoutError: it still runs.
        """
        wait_until(lambda: not self.running, "end of the container", timeout=timeout)
        return self.state["ExitCode"]
