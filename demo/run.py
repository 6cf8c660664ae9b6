"""Serve a demonstration of the cube, with pictures, until Ctrl-C: `make run`."""

import argparse
import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pictures
from instance import LOGIN, PASSWORD, DemoError, Instance

CHECKOUT = Path(__file__).resolve().parent.parent
# by creation date: a picture that is replaced keeps its place
GALLERY = "view?rql=Any+X+ORDERBY+D+WHERE+X+is+File,+X+creation_date+D&vid=gallery"
MONITORS = ("monitor_pool", "monitor_db", "monitor_version", "monitor_hostname")


def main() -> int:
    """Run the demonstration and return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)  # SIGINT too: background jobs of a shell ignore it
    try:
        _run(_arguments())
    except (DemoError, OSError) as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _interrupt(_number: int, _frame: object) -> None:
    # Once is enough: to stop takes a moment, in which one may press Ctrl-C again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--port",
        default=os.environ.get("PORT") or "8080",
        help="port to listen on (by default the environment's PORT, else 8080)",
    )
    parser.add_argument(
        "--images",
        default=os.environ.get("IMAGES"),
        help="folder of pictures to show (by default the environment's IMAGES)",
    )
    parser.add_argument(
        "--var",
        type=Path,
        default=CHECKOUT / "var",
        help="directory that keeps the instance (by default %(default)s)",
    )
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> None:
    # What may be wrong comes first, when nothing is written yet.
    wanted = _wanted(arguments.images) if arguments.images else None
    port = _port(arguments.port)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listening) for listening in _listen(port)]
        instance = Instance(arguments.var.resolve(), port)
        stack.enter_context(_alone(instance.var))
        instance.log.parent.mkdir(exist_ok=True)
        instance.log.write_bytes(b"")
        _set_environment(instance.environment())  # before CubicWeb is imported, which reads it
        try:
            _prepare(instance)
            from serving import serve

            serve(
                instance,
                sockets,
                wanted,
                lambda added, shown: _say(_where_to_look(instance, added, shown)),
            )
        except (DemoError, OSError):
            raise
        except Exception as error:
            with instance.log.open("a") as log:
                traceback.print_exc(file=log)
            raise DemoError(f"{error!r}: see {instance.log}") from error


def _prepare(instance: Instance) -> None:
    if not instance.site.exists():
        _say("Creating the demonstration...")
        instance.create()
    elif instance.upgrade():
        _say(f"{instance.var} was made by an older version: upgraded.")


def _set_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _say(message: str) -> None:
    print(message, flush=True)


def _wanted(folder: str) -> list[pictures.Picture]:
    """Return the pictures of the user's folder."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DemoError(f"IMAGES={folder} is not a folder: name one that holds pictures")
    found = pictures.in_folder(path)
    if not found:
        formats = ", ".join(pictures.FORMATS)
        raise DemoError(
            f"IMAGES={folder} holds no picture that can be read: name a folder of {formats} files"
        )
    return found


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise DemoError(f"PORT={text} is not a port: choose one from 1024 to 65535")


def _listen(port: int) -> Iterator[socket.socket]:
    """Yield sockets on the addresses of localhost, of which browsers try the one or the other.

    They listen from the beginning, so that nobody else takes the port meanwhile.
    """
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            listening = socket.create_server((address, port), family=family, backlog=128)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise DemoError(
                    f"port {port} is taken: stop what listens there, or choose another port, "
                    f"as in `make run PORT={port + 1 if port < 65535 else 8081}`"
                ) from None
            if error.errno == errno.EACCES:
                raise DemoError(
                    f"port {port} is for the administrator: choose one from 1024 to 65535, "
                    "as in `make run PORT=8081`"
                ) from None
            if family == socket.AF_INET:
                raise
            continue  # a machine without IPv6
        yield listening


@contextlib.contextmanager
def _alone(var: Path) -> Iterator[None]:
    """Make sure that no other run uses `var`."""
    var.mkdir(parents=True, exist_ok=True)
    with (var / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another run uses {var}: stop it first") from None
        yield


def _where_to_look(instance: Instance, added: int, shown: int | None) -> str:
    url = instance.url
    lines = [f"{added} picture{'s' if added > 1 else ''} added."] if added else []
    lines += [
        f"The demonstration is at {url}",
        f"  gallery   {url}{GALLERY}",
    ]
    if shown is not None:
        lines += [
            f"  picture   {url}file/{shown}",
            f"  edit it   {url}login?postlogin_path=file/{shown}?vid=edition",
            f"            as {LOGIN}, password {PASSWORD}: choose another file, see the new URL",
        ]
    lines += [f"  monitor   {url}view?vid={name}" for name in MONITORS]
    return "\n".join([*lines, f"  log       {instance.log}", "Ctrl-C stops it."])


if __name__ == "__main__":
    sys.exit(main())
