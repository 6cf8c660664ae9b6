"""How far a rehearsal is, in a file of its folder: what was done is not done again."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

NAME = "state.json"


@dataclass
class Step:
    """What is known of a step.

    :param inputs: digest of what it depends on; it is done again if that changes
    :param facts: what it found, for later steps and for the report
    """

    status: Literal["running", "done", "failed"] = "running"
    inputs: str = ""
    started: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    details: str = ""


@dataclass
class State:
    """A rehearsal: its folder, its steps in their order, and its verdict at the end.

    :param token: what tells the names of its databases from all others
    """

    folder: Path
    site: str
    token: str
    created: str
    steps: dict[str, Step] = field(default_factory=dict)
    verdict: Literal["", "rolling", "stopped", "failed"] = ""
    finished: str = ""
    #: failures that were met, those that a later try has overcome too
    failures: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Name of its folder."""
        return self.folder.name

    def begin(self) -> None:
        """Make the folder, if it is not there."""
        self.folder.mkdir(exist_ok=True)
        self.save()

    def save(self) -> None:
        """Write the file, whole."""
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        new = self.folder / f".{NAME}"
        with new.open("w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / NAME)

    def fact(self, name: str, default: Any = None) -> Any:
        """Return what a step has found."""
        for step in self.steps.values():
            if name in step.facts:
                return step.facts[name]
        return default


def load(folder: Path) -> State:
    """Return the rehearsal of a folder.

    :raises ValueError: the folder holds none.
    """
    try:
        content = json.loads((folder / NAME).read_text())
        steps = {name: Step(**step) for name, step in content.pop("steps").items()}
        return State(folder=folder, steps=steps, **content)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no rehearsal: {error}") from None


def new(parent: Path, site: str) -> State:
    """Return a new rehearsal, in a folder of its own that is not there yet."""
    now = datetime.now(UTC)
    folder = parent / f"rehearsal-{now:%Y-%m-%dT%H%M%SZ}"
    return State(folder, site, secrets.token_hex(4), now.isoformat(timespec="seconds"))


def unfinished(parent: Path, site: str) -> list[State]:
    """Return the rehearsals of a site that have no verdict or failed, the latest first."""
    result = []
    for folder in sorted(parent.glob("rehearsal-*"), reverse=True):
        try:
            state = load(folder)
        except ValueError:
            continue
        if state.site == site and state.verdict in ("", "failed"):
            result.append(state)
    return result


def age_hours(state: State) -> float:
    """Return for how many hours the copy that was rehearsed on is there."""
    return (datetime.now(UTC) - datetime.fromisoformat(state.created)).total_seconds() / 3600
