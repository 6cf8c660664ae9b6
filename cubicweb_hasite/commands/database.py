"""Commands for the database of an instance: hasite-advance-eids."""

from pathlib import Path

from cubicweb import ExecutionError
from cubicweb.toolsutils import Command

from cubicweb_hasite.commands import instance_config, note
from cubicweb_hasite.database import eids


class AdvanceEidsCommand(Command):
    """Leave out eids after a backup was restored, so that none is given out twice.

    Caches and browsers keep images under their eids for up to a year. So entities that are new
    after the restoration must not get the eid of one that is lost. Run it before the instances are
    started again, and empty the caches. To run it once more does no harm.

    <instance>
      identifier of the instance.
    """

    name = "hasite-advance-eids"
    arguments = "<instance>"
    min_args = max_args = 1
    options = (
        (
            "by",
            {
                "type": "int",
                "default": eids.STEP,
                "metavar": "<number>",
                "help": f"how many eids to leave out (default: {eids.STEP}): more than were given "
                "out since the backup was made.",
            },
        ),
    )

    def run(self, args: list[str]) -> None:
        """Advance them, and print the last one before and after.

        :raises ExecutionError: the number is wrong, or the database does not answer.
        """
        [name] = args
        if self["by"] < 1:
            raise ExecutionError("hasite-advance-eids: --by needs a number of 1 or more")
        config = instance_config(name)
        try:
            repo = config.repository()
            try:
                with repo.internal_cnx() as cnx:
                    before, after = eids.advance(cnx, self["by"])
                    cnx.commit()
            finally:
                repo.shutdown()
        except Exception as error:  # of libpq, or of CubicWeb
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ExecutionError(f"hasite-advance-eids: nothing was changed: {reason}") from error
        result = f"the last eid was {before}, the next is {after + 1}"
        note(Path(config.apphome), f"hasite-advance-eids {name}", result)
        print(f"{name}: {result}")


COMMANDS = [AdvanceEidsCommand]
