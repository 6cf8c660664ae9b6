"""Fixtures: the image, a PostgreSQL server, and an instance that the image has created."""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import containers
import pytest
from containers import Container
from servers.postgresql import PostgreSQL
from servers.support import make_directory

#: the manager's password
MANAGER = "manager's password"


@pytest.fixture(scope="session", autouse=True)
def _image() -> Iterator[None]:
    containers.run(containers.BUILD, containers.CHECKOUT)
    yield
    containers.podman("rmi", "--force", containers.NAME)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL server, which wants passwords."""
    directory = make_directory()
    with PostgreSQL(directory / "postgresql") as server:
        yield server
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def folder(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder where the commands are run: its `site.env`, the secrets, the database."""
    folder = tmp_path_factory.mktemp("site")
    password = secrets.token_hex(8)
    postgresql.create_user("mysite", password)
    postgresql.sql('CREATE DATABASE mysite OWNER mysite ENCODING "UTF8" TEMPLATE template0')
    settings = {
        "CW_BASE_URL": "http://127.0.0.1:8080/",
        "CW_DB_HOST": postgresql.host,
        "CW_DB_PORT": postgresql.port,
        "CW_DB_NAME": "mysite",
        "CW_DB_USER": "mysite",
        "CW_ANONYMOUS_USER": "anon",
        "CW_ANONYMOUS_PASSWORD": "anon",
    }
    lines = [f"{name}={value}\n" for name, value in settings.items()]
    (folder / "site.env").write_text("".join(lines))
    (folder / "password").write_text(password)
    made = ["database", "manager", "cookies"]
    forget = [f"{containers.NAME}-{name}" for name in made]
    for name in forget:  # left by tests that were killed
        containers.podman("secret", "rm", name, check=False)
    containers.run(
        containers.SECRETS, folder, DATABASE_PASSWORD=password, MANAGER_PASSWORD=MANAGER
    )
    yield folder
    containers.podman("secret", "rm", *forget)


@pytest.fixture(scope="session")
def site(folder: Path) -> Path:
    """The folder, once the image has filled the database."""
    containers.run(containers.CREATE, folder)
    return folder


@pytest.fixture(scope="session")
def container(site: Path) -> Iterator[Container]:
    """A container that serves the instance, for all tests that do not stop it."""
    with Container(site) as container:
        yield container
