"""`make run`: what it prints is there, it keeps its data, and it says what is wrong."""

import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from pictures import picture
from PIL import Image
from servers.support import free_port, wait_until
from servers.visitor import Visitor

CHECKOUT = Path(__file__).resolve().parent.parent
DRAWN = 6


class Demo:
    """A run of the demonstration."""

    def __init__(self, var: Path, **options: object) -> None:
        self.var = var
        self.port = free_port()
        options = {"port": self.port, "var": var, **options}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [sys.executable, CHECKOUT / "demo" / "run.py", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key not in ("PORT", "IMAGES")},
        )
        self.output = ""

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    @property
    def urls(self) -> list[str]:
        """The URLs that were printed."""
        return re.findall(r"http://\S+", self.output)

    def url_of(self, label: str) -> str:
        return re.search(rf"^  {label} +(\S+)$", self.output, re.MULTILINE)[1]

    def wait_until_ready(self) -> None:
        deadline = threading.Timer(120, self.process.kill)
        deadline.start()
        while "Ctrl-C" not in self.output:
            line = self.process.stdout.readline()
            assert line, f"{self.output}\n{self.process.stderr.read()}"
            self.output += line
        deadline.cancel()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.end()[0]

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and what was written on standard error."""
        try:
            output, errors = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        self.output += output
        return self.process.returncode, errors


Run = Callable[..., Demo]


@pytest.fixture
def run() -> Iterator[Run]:
    """A function that starts the demonstration; `ready=False`: without waiting for it."""
    demos = []

    def start(var: Path, *, ready: bool = True, **options: object) -> Demo:
        demos.append(Demo(var, **options))
        if ready:
            demos[-1].wait_until_ready()
        return demos[-1]

    yield start
    for demo in demos:
        demo.process.kill()
        demo.process.communicate()


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The first run, which has ended."""
    demo = Demo(tmp_path_factory.mktemp("first") / "var")
    try:
        demo.wait_until_ready()
        assert demo.stop() == 0
    finally:
        demo.process.kill()
    return demo


@pytest.fixture
def var(first_run: Demo, tmp_path: Path) -> Path:
    """A copy of what the first run has left: it may be moved."""
    return Path(shutil.copytree(first_run.var, tmp_path / "var"))


def thumbnails(demo: Demo) -> list[str]:
    """Return the URLs of the thumbnails that the gallery shows to an anonymous visitor."""
    page = requests.get(demo.url_of("gallery"), timeout=30)
    assert page.status_code == 200
    return re.findall(r'<img id="img\d+"[^>]* src="([^"]+)"', page.text)


def image(url: str) -> Image.Image:
    response = requests.get(url, timeout=30)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("image/")
    return Image.open(io.BytesIO(response.content))


def refusal(demo: Demo) -> str:
    """Return the line by which a run that failed says why."""
    status, errors = demo.end()
    assert status == 1
    assert errors.count("\n") == 1, errors
    return errors


def test_what_is_printed_is_there(run: Run, tmp_path: Path) -> None:
    demo = run(tmp_path / "var")
    assert len(demo.urls) == 8
    for url in demo.urls:
        assert url.startswith(demo.url)
        response = requests.get(url, timeout=30)
        assert response.status_code == 200, url
        is_monitor = "monitor_" in url
        assert response.headers["Content-Type"].startswith("text/plain") == is_monitor
    assert len(thumbnails(demo)) == DRAWN
    assert len({image(url).tobytes() for url in thumbnails(demo)}) == DRAWN
    page = requests.get(demo.url_of("picture"), timeout=30).text
    [raw] = set(re.findall(r'<img[^>]* src="([^"]+/raw/[^"]+)"', page))
    assert image(raw).size == (960, 640)

    login, path = demo.url_of("edit it").split("?postlogin_path=")
    visitor = Visitor(demo.url)
    response = visitor.post(
        f"{login}?postlogin_path={path}",
        {"__login": "admin", "__password": "admin"},
        headers={"Origin": demo.url.rstrip("/")},
        allow_redirects=True,
    )
    assert response.url == demo.url + path
    assert 'type="file"' in response.text

    assert demo.stop() == 0
    assert demo.output.count("\n") < 20


def test_second_run_keeps_the_data(run: Run, var: Path) -> None:
    demo = run(var)
    visitor = Visitor(demo.url)
    visitor.login()
    eid = int(demo.url_of("picture").rsplit("/", 1)[1])
    visitor.edit(eid, "File", {"title": "Kept"}, {"data": ("k.png", picture("red"), "image/png")})
    assert demo.stop() == 0

    demo = run(var)  # on another port
    assert "Creating" not in demo.output
    assert "added" not in demo.output
    urls = thumbnails(demo)
    assert len(urls) == DRAWN
    assert all(url.startswith(demo.url) for url in urls)
    assert image(urls[0]).convert("RGB").getpixel((5, 5)) == (255, 0, 0)
    assert "Kept" in requests.get(demo.url_of("picture"), timeout=30).text
    visitor = Visitor(demo.url)
    visitor.login()
    eid = int(demo.url_of("picture").rsplit("/", 1)[1])
    response = visitor.edit(eid, "File", {"title": "Again"})
    assert response.headers["Location"].startswith(demo.url)


def test_folder_of_pictures(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for name in ("one.png", "été.jpeg"):
        (folder / name).write_bytes(picture("red", kind=name.rsplit(".")[-1]))
    (folder / "notes.txt").write_text("no picture")
    demo = run(tmp_path / "var", images=folder)
    assert "2 pictures added" in demo.output
    assert len(thumbnails(demo)) == 2
    visitor = Visitor(demo.url)
    visitor.login()
    eid = int(demo.url_of("picture").rsplit("/", 1)[1])
    files = {"data": ("other.png", picture("blue"), "image/png")}
    visitor.edit(eid, "File", {"data_name": "one.png"}, files)
    demo.stop()

    # neither the picture that is there nor the one that was replaced
    demo = run(tmp_path / "var", images=folder)
    assert "added" not in demo.output
    demo.stop()

    (folder / "three.gif").write_bytes(picture("blue", kind="gif"))
    demo = run(tmp_path / "var", images=folder)
    assert "1 picture added" in demo.output
    assert len(thumbnails(demo)) == 3


@pytest.mark.parametrize("content", [None, "empty", "text"])
def test_no_pictures_in_folder(run: Run, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "pictures"
    if content:
        folder.mkdir()
    if content == "text":
        (folder / "fake.png").write_text("no picture")
    error = refusal(run(tmp_path / "var", images=folder, ready=False))
    assert f"IMAGES={folder}" in error
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize("port", ["x", "0", "70000"])
def test_no_port(run: Run, tmp_path: Path, port: str) -> None:
    assert f"PORT={port} " in refusal(run(tmp_path / "var", port=port, ready=False))
    assert not (tmp_path / "var").exists()


def test_port_taken(run: Run, tmp_path: Path, var: Path) -> None:
    first = run(var)
    error = refusal(run(tmp_path / "other", port=first.port, ready=False))
    assert f"port {first.port} is taken" in error
    assert f"PORT={first.port + 1}" in error
    assert not (tmp_path / "other").exists()


def test_two_runs_on_the_same_data(run: Run, var: Path) -> None:
    run(var)
    assert f"another run uses {var}" in refusal(run(var, ready=False))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_creation_interrupted(run: Run, tmp_path: Path, number: signal.Signals) -> None:
    var = tmp_path / "var"
    demo = run(var, ready=False)
    wait_until(lambda: [*var.glob("new-*/*.sqlite")], "a database begun", interval=0.01)
    demo.process.send_signal(number)
    status, errors = demo.end()
    assert status == (-number if number == signal.SIGKILL else 130)
    assert errors == ""
    assert not (var / "site").exists()

    demo = run(var)
    assert len(thumbnails(demo)) == DRAWN


def test_sigterm(run: Run, var: Path) -> None:
    assert run(var).stop(signal.SIGTERM) == 0


def set_version(var: Path, version: str) -> None:
    connection = sqlite3.connect(var / "site" / "demo.sqlite")
    connection.execute(
        "UPDATE cw_CWProperty SET cw_value=? WHERE cw_pkey='system.version.hasite'", (version,)
    )
    connection.commit()
    connection.close()


def test_older_version(run: Run, var: Path) -> None:
    set_version(var, "0.0.1")
    demo = run(var)
    assert "upgraded" in demo.output
    assert len(thumbnails(demo)) == DRAWN
    demo.stop()
    assert "upgraded" not in run(var).output


def test_upgrade_interrupted(run: Run, var: Path) -> None:
    database = var / "site" / "demo.sqlite"
    database.rename(database.with_suffix(".before-upgrade"))
    database.write_bytes(b"half of an upgrade")
    assert len(thumbnails(run(var))) == DRAWN


def test_newer_version(run: Run, var: Path) -> None:
    set_version(var, "99.0.0")
    assert "newer version" in refusal(run(var, ready=False))


def test_make_run() -> None:
    commands = subprocess.run(
        ["make", "--no-print-directory", "-n", "run", "PORT=8081", "IMAGES=some"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(r"tools/setup run\b.*\bdemo/run\.py", commands, re.DOTALL)
