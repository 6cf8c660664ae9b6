#!/usr/bin/env python3
"""The first program of a container: reads its settings, then becomes what serves the instance.

    start.py serve              gunicorn; the default
    start.py create             fill an empty database, once
    start.py upgrade            upgrade the database to the versions of the image
    start.py health PATH        ask the instance in this container for /livez or /readyz
    start.py PROGRAM ...        another program, such as cubicweb-ctl, with the same settings

Settings are environment variables. A file in `/run/secrets` that has the name of one is its value,
unless the environment has it. A setting that is missing or cannot be used ends with one line on
the standard error, and the status 2.
"""

import hashlib
import hmac
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

#: the configuration as the image has it, which holds nothing of a site
TEMPLATE = Path(__file__).resolve().parent / "etc"
SECRETS = Path(os.environ.get("SECRETS_DIR", "/run/secrets"))
_VARIABLE = re.compile(r"(CW_[A-Z0-9_]+|COOKIE_SECRET)")
#: what each command needs
_DATABASE = ["CW_BASE_URL", "CW_DB_HOST", "CW_DB_NAME", "CW_DB_USER"]
_NEEDED = {
    "serve": [*_DATABASE, "COOKIE_SECRET"],
    "create": [*_DATABASE, "CW_PASSWORD"],
    "upgrade": [*_DATABASE, "CW_PASSWORD"],
}
#: settings of pyramid.ini that must be the same in all containers of a site, or visitors would be
#: logged out when they get to another one
_COOKIE_SETTINGS = (
    "cubicweb.session.secret",
    "cubicweb.auth.authtkt.session.secret",
    "cubicweb.auth.authtkt.persistent.secret",
)
_SHORTEST_SECRET = 32
#: Each option of the database comes from the environment: CubicWeb looks there for those that the
#: file has.
_SOURCES = """\
[admin]
login=admin
password=

[system]
adapter=native
db-driver=
db-host=
db-port=
db-name=
db-user=
db-password=
db-extra-arguments=
db-encoding=utf8
"""
#: seconds that a health check waits for an answer
_PATIENCE = 4


class SettingError(Exception):
    """What is wrong with a setting, in one line."""


def main(arguments: list[str]) -> int:
    """Run a command, or become another program; return the exit status."""
    command, *rest = arguments or ["serve"]
    if command == "health":
        return health(*rest)
    try:
        read_secrets(SECRETS)
        missing = [name for name in _NEEDED.get(command, []) if not os.environ.get(name)]
        if missing:
            raise SettingError(f"{command} needs {', '.join(missing)}: not set")
        configure(command)
    except (OSError, SettingError) as error:
        print(f"start.py: {error}", file=sys.stderr)
        return 2
    instance = os.environ["CW_INSTANCE"]
    if command == "serve":
        os.environ.pop("CW_PASSWORD", None)  # the manager's, which serving does not need
        settings = Path(__file__).with_name("gunicorn.conf.py")
        become(
            "gunicorn", f"--config={settings}", f'cubicweb_hasite.wsgi:application("{instance}")'
        )
    if command == "create":
        become("cubicweb-ctl", "db-create", "--automatic", "--create-db=n", instance)
    if command == "upgrade":
        return upgrade(instance)
    become(command, *rest)


def become(*command: str) -> None:
    """Replace this process, so that signals reach the program."""
    os.execvp(command[0], command)


def read_secrets(folder: Path) -> None:
    """Set the variables that have a file.

    :raises OSError: one cannot be read.
    """
    for path in folder.glob("*"):
        if _VARIABLE.fullmatch(path.name):
            os.environ.setdefault(path.name, path.read_text().removesuffix("\n"))


def configure(command: str) -> None:
    """Write the configuration of the instance where it may be written.

    :raises SettingError: the secret that signs cookies could be guessed.
    """
    secret = os.environ.get("COOKIE_SECRET", "")
    if command == "serve" and len(secret) < _SHORTEST_SECRET:
        raise SettingError(
            f"COOKIE_SECRET: {len(secret)} characters, which is less than {_SHORTEST_SECRET}"
        )
    folder = Path(os.environ["CW_INSTANCES_DIR"])
    for name in ("CW_INSTANCES_DATA_DIR", "CW_RUNTIME_DIR"):
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)
    instance = folder / os.environ["CW_INSTANCE"]
    shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True)
    (instance / "sources").write_text(_SOURCES)
    # without them CubicWeb starts no server
    with (instance / "pyramid.ini").open("a") as file:
        for name in _COOKIE_SETTINGS if secret else ():
            value = hmac.new(secret.encode(), name.encode(), hashlib.sha256).hexdigest()
            file.write(f"{name} = {value}\n")


def upgrade(instance: str) -> int:
    """Upgrade the database; return a status other than 0 unless it is done.

    `cubicweb-ctl` exits with 0 also if the manager's password is wrong.
    """
    command = ["cubicweb-ctl", "upgrade", "--force", "--verbosity=0", "--backup-db=n", instance]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    done = False
    assert process.stdout
    for line in process.stdout:
        print(line, end="")
        done = done or line.startswith("-> instance migrated.")
    return process.wait() or int(not done)


def health(path: str = "/livez") -> int:
    """Print what a monitor answers on the management port; return 0 if it is healthy."""
    url = f"http://127.0.0.1:{os.environ['CW_HASITE_MANAGEMENT_PORT']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as response:
            print(response.read().decode())
        return 0
    except urllib.error.HTTPError as error:
        print(error.read().decode())
    except OSError as error:
        print(error)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
