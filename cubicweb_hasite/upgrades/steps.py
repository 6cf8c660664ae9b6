"""Run the steps of a rehearsal: skip those that are done, retry when a connection is lost."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from cubicweb_hasite.upgrades import UpgradeError
from cubicweb_hasite.upgrades.console import Bar, Console, duration
from cubicweb_hasite.upgrades.programs import Programs
from cubicweb_hasite.upgrades.state import State, Step

#: how often a step is tried when its connection to PostgreSQL is lost
_TRIES = 3
#: seconds for which PostgreSQL may be away before a step fails
_AWAY = 60
#: free bytes below which a disk is full
_FULL = 200_000


@dataclass(frozen=True)
class Action:
    """How a step is done.

    :param inputs: returns what the step depends on, besides the steps before it
    :param is_valid: returns whether the result of a step that was done is still there
    """

    name: str
    run: Callable[[Bar], None]
    inputs: Callable[[], str] = str
    is_valid: Callable[[], bool] = lambda: True


class Runner:
    """Runs the steps, and records them in the state.

    :param reconnect: raises UpgradeError while PostgreSQL cannot be used
    :param clean_up: is called with the name of a step that failed, and returns what to add to the
        error
    """

    def __init__(
        self,
        state: State,
        programs: Programs,
        console: Console,
        reconnect: Callable[[], None],
        clean_up: Callable[[str], str],
    ) -> None:
        self._state = state
        self._programs = programs
        self._console = console
        self._reconnect = reconnect
        self._clean_up = clean_up
        #: whether a try has ended in a deadlock
        self.deadlock = False

    def run(self, actions: Iterable[Action], estimates: dict[str, float]) -> None:
        """Do the steps that are not done yet.

        :param estimates: expected duration of each step in seconds
        :raises UpgradeError: a step failed; the state tells which.
        """
        inputs = ""
        for action in actions:
            name = action.name
            try:
                text = f"{inputs} {name} {action.inputs()}"
            except UpgradeError as error:
                self._fail(name, error)
                raise
            inputs = hashlib.sha256(text.encode()).hexdigest()
            known = self._state.steps.get(name)
            done = known is not None and (known.status, known.inputs) == ("done", inputs)
            if known and done and action.is_valid():
                self._console.say(f"{name}: was done in {duration(known.seconds)}")
            else:
                self._do(action, inputs, estimates.get(name, 0))

    def _do(self, action: Action, inputs: str, estimate: float) -> None:
        name = action.name
        step = self._state.steps[name] = Step(inputs=inputs, started=now())
        start = time.monotonic()
        try:
            self._try(action, estimate)
        except (UpgradeError, OSError) as error:
            step.status, step.error = "failed", _one_line(error)
            if shutil.disk_usage(self._state.folder).free < _FULL:  # the log may lack the reason
                step.error += f"; the disk that holds {self._state.folder} is full"
            step.error += self._clean_up(name)
            step.details = getattr(error, "details", "")
            self._fail(name, UpgradeError(step.error, step.details))
            raise UpgradeError(f"{name}: {step.error}", step.details) from None
        finally:
            step.seconds = time.monotonic() - start
            with suppress(OSError):
                self._state.save()
        step.status = "done"
        self._state.save()
        self._console.say(f"{name}: done in {duration(step.seconds)}")

    def _try(self, action: Action, estimate: float) -> None:
        """Do a step, again if its connection to PostgreSQL was lost or after a deadlock.

        :raises UpgradeError: it failed.
        :raises OSError: a file cannot be read or written.
        """
        for tries_left in reversed(range(_TRIES)):
            self._state.save()
            self._programs.note(f"=== {action.name}")
            try:
                with self._console.step(action.name, estimate) as bar:
                    action.run(bar)
                return
            except UpgradeError as error:
                if not tries_left or not (error.deadlock or (error.lost and self._is_back())):
                    raise
                self.deadlock = self.deadlock or error.deadlock
                self._note_failure(action.name, error)
                self._console.say(f"{action.name}: {error}: trying again")

    def _is_back(self) -> bool:
        """Wait for PostgreSQL; return whether it can be used again."""
        deadline = time.monotonic() + _AWAY
        while time.monotonic() < deadline:
            try:
                self._reconnect()
            except UpgradeError as error:
                if not error.lost:
                    return False
                time.sleep(1)
            else:
                return True
        return False

    def _fail(self, name: str, error: Exception) -> None:
        self._note_failure(name, error)
        self._state.verdict = "failed"
        try:
            self._state.save()
        except OSError:  # a dump has filled the disk: the report needs some of it
            shutil.rmtree(self._state.folder / "work" / "dump", ignore_errors=True)
            with suppress(OSError):
                self._state.save()

    def _note_failure(self, name: str, error: Exception) -> None:
        self._state.failures.append(f"{name}: {_one_line(error)}")
        with suppress(OSError):
            self._programs.note(f"{name} failed: {error}")


def now() -> str:
    """Return the time in UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
