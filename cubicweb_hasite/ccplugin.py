"""Commands that the cube adds to `cubicweb-ctl`."""

from cubicweb import ExecutionError
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.cwctl import CWCTL
from cubicweb.toolsutils import Command

from cubicweb_hasite import draining


class DrainCommand(Command):
    """Let the balancers send no more visitors to an instance: its /readyz says 503.

    It concerns the processes of the instance that run on this host. One that starts later is
    ready.

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
                "help": "with --wait, for how long no request must have come (default: 5): longer "
                "than a balancer takes to notice.",
            },
        ),
        (
            "timeout",
            {
                "type": "float",
                "default": 60.0,
                "metavar": "<seconds>",
                "help": "with --wait, for how long to wait (default: 60).",
            },
        ),
    )

    def run(self, args: list[str]) -> None:
        """Set or remove the flag, and wait if asked to."""
        [name] = args
        if self["undo"] and self["wait"]:
            raise ExecutionError("hasite-drain: --wait makes no sense with --undo")
        CubicWebConfiguration.instance_home(name)  # which raises if there is no such instance
        config = CubicWebConfiguration.config_for(name)
        try:
            draining.set_draining(config, not self["undo"])
        except OSError as error:
            raise ExecutionError(
                f"hasite-drain: cannot write {error.filename}: {error.strerror}; run it as a user "
                "who may, with the CW_RUNTIME_DIR of the processes"
            ) from error
        if not self["wait"]:
            print(f"{name} is {'in service again' if self['undo'] else 'being drained'}")
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


CWCTL.register(DrainCommand)
