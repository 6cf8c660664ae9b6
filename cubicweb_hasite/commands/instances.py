"""Commands for the running instances of a host: hasite-drain, hasite-accept, hasite-read-only."""

import sys
from pathlib import Path

from cubicweb import ExecutionError
from cubicweb.toolsutils import Command

from cubicweb_hasite import versions
from cubicweb_hasite.commands import cubes, instance_config, note
from cubicweb_hasite.operations import accepting, draining, read_only


class DrainCommand(Command):
    """Let the balancers send no more visitors to an instance: its /readyz answers 503.

    It is about the processes of the instance that run on this host now. A process that starts
    later is ready.

    <instance>
      identifier of the instance.
    """

    name = "hasite-drain"
    arguments = "<instance>"
    min_args = max_args = 1
    options = (
        (
            "undo",
            {"action": "store_true", "default": False, "help": "put it in service again."},
        ),
        (
            "wait",
            {
                "action": "store_true",
                "default": False,
                "help": "return when no request is in flight any more; fail after --timeout.",
            },
        ),
        (
            "quiet",
            {
                "type": "float",
                "default": 5.0,
                "metavar": "<seconds>",
                "help": "with --wait, how long there must have been no request (default: 5): "
                "longer than a balancer takes to notice.",
            },
        ),
        (
            "timeout",
            {
                "type": "float",
                "default": 60.0,
                "metavar": "<seconds>",
                "help": "with --wait, how long to wait (default: 60).",
            },
        ),
    )

    def run(self, args: list[str]) -> None:
        """Set or remove the flag, and wait if asked to.

        :raises ExecutionError: the flag cannot be set, or the wait has failed.
        """
        [name] = args
        if self["undo"] and self["wait"]:
            raise ExecutionError("hasite-drain: --wait makes no sense with --undo")
        config = instance_config(name)
        try:
            draining.set_draining(config, not self["undo"])
        except OSError as error:
            raise ExecutionError(
                f"hasite-drain: cannot write {error.filename}: {error.strerror}; run it as a user "
                "who may, with the CW_RUNTIME_DIR of the processes"
            ) from error
        result = "in service again" if self["undo"] else "being drained"
        note(Path(config.apphome), f"hasite-drain {'--undo ' * self['undo']}{name}", result)
        if not self["wait"]:
            print(f"{name} is {result}")
            return
        try:
            draining.wait(config, self["quiet"], self["timeout"])
        except TimeoutError as error:
            raise ExecutionError(f"hasite-drain: {name} is being drained, but {error}") from error
        except OSError as error:
            raise ExecutionError(
                f"hasite-drain: cannot tell whether {name} serves requests: {error}; did it run "
                "here, with the same CW_RUNTIME_DIR?"
            ) from error
        print(f"{name} is drained")


class AcceptCommand(Command):
    """Let the running processes of an instance serve with other versions in the database.

    If a rehearsal has shown that they can, /readyz stays 200 while and after the database is
    upgraded to exactly these versions. It is about the processes on this host.

    <instance>
      identifier of the instance.

    <versions>
      the versions of the upgraded database, as monitor_version writes them:
      "cubicweb: 5.0.1 | file: …".
    """

    name = "hasite-accept"
    arguments = "<instance> [<versions>]"
    min_args, max_args = 1, 2
    options = (
        (
            "undo",
            {
                "action": "store_true",
                "default": False,
                "help": "accept only the installed versions again.",
            },
        ),
    )

    def run(self, args: list[str]) -> None:
        """Write or remove the file.

        :raises ExecutionError: the versions have the wrong format, or the file cannot be written.
        """
        name, *given = args
        if self["undo"] == bool(given):
            raise ExecutionError("hasite-accept: give versions, or --undo")
        config = instance_config(name)
        accepted = given[0] if given else None
        try:
            accepting.accept(config, accepted)
        except (OSError, ValueError) as error:
            raise ExecutionError(f"hasite-accept: {error}") from error
        forgotten = set()
        if accepted:
            forgotten = versions.parse(cubes.installed(config)).keys() - versions.parse(accepted)
        if forgotten:
            print(
                f"the list does not name {', '.join(sorted(forgotten))}: that is right only if "
                "the upgrade removes it; hasite-cubes --versions prints the whole list",
                file=sys.stderr,
            )
        result = f"accepts {accepted}" if accepted else "accepts only the installed versions"
        note(Path(config.apphome), f"hasite-accept {name}", result)
        print(f"{name} {result}")


class ReadOnlyCommand(Command):
    """Let the processes of an instance write nothing, and read all pages from one standby.

    Visitors who only read notice nothing; forms are refused with 503. /readyz says `reads only`
    once the standby holds all that was written. It is about the processes on this host, also if
    they are restarted, as long as CubicWeb and its cubes have the same versions. So the primary
    can be upgraded meanwhile, even if the running version could not work with it.

    <instance>
      identifier of the instance.

    <standby>
      an entry of the option hasite-standby-hosts.
    """

    name = "hasite-read-only"
    arguments = "<instance> [<standby>]"
    min_args, max_args = 1, 2
    options = (
        (
            "undo",
            {"action": "store_true", "default": False, "help": "let it write again."},
        ),
    )

    def run(self, args: list[str]) -> None:
        """Write or remove the file.

        :raises ExecutionError: the standby is not known, or the file cannot be written.
        """
        name, *given = args
        if self["undo"] == bool(given):
            raise ExecutionError("hasite-read-only: give a standby, or --undo")
        config = instance_config(name)
        standby = given[0] if given else None
        try:
            if standby:
                cubes.bootstrap(config)
            read_only.order(config, standby)
        except (OSError, ValueError) as error:
            raise ExecutionError(f"hasite-read-only: {error}") from error
        result = f"reads {standby} alone" if standby else "reads and writes as before"
        note(Path(config.apphome), f"hasite-read-only {name}", result)
        print(f"{name} {result}")


COMMANDS = [DrainCommand, AcceptCommand, ReadOnlyCommand]
