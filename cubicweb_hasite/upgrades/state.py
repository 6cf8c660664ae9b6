"""The state of a rehearsal, in a file of its folder: what is done is not done again."""

import json
import os
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter

from cubicweb_hasite.upgrades.findings import Findings

NAME = "state.json"


@dataclass
class Step:
    """The state of a step.

    :param inputs: digest of what the step depends on; it is done again when that changes
    """

    status: Literal["running", "done", "failed"] = "running"
    inputs: str = ""
    started: str = ""
    seconds: float = 0.0
    error: str = ""
    details: str = ""


@dataclass
class State:
    """A rehearsal: its folder, its steps in their order, and its verdict at the end.

    :param token: part of the names of its databases, which no other server has
    :param failures: errors of all tries, those that a later try has overcome included
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    folder: Path
    site: str
    token: str
    created: str
    findings: Findings
    steps: dict[str, Step] = field(default_factory=dict)
    verdict: Literal["", "rolling", "read-only", "stopped", "failed"] = ""
    finished: str = ""
    failures: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @property
    def passed(self) -> bool:
        """Whether production can be upgraded by it."""
        return self.verdict in ("rolling", "read-only", "stopped")

    @property
    def age_hours(self) -> float:
        """Hours since the rehearsal was started, and so the age of its copy."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.created)).total_seconds() / 3600

    def is_done(self, name: str) -> bool:
        """Return whether a step is done."""
        return name in self.steps and self.steps[name].status == "done"

    def begin(self) -> None:
        """Make the folder if it does not exist."""
        self.folder.mkdir(exist_ok=True)
        self.save()

    def save(self) -> None:
        """Write the file; a crash leaves the former one or the new one."""
        new = self.folder / f".{NAME}"
        with new.open("wb") as file:
            file.write(_ADAPTER.dump_json(self, indent=1, exclude={"folder"}))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / NAME)


_ADAPTER = TypeAdapter(State)


def load(folder: Path) -> State:
    """Return the rehearsal of a folder.

    :raises ValueError: the folder holds none.
    """
    try:
        content = json.loads((folder / NAME).read_text())
        return _ADAPTER.validate_python({**content, "folder": folder})
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no rehearsal: {error}") from None


def new(parent: Path, site: str) -> State:
    """Return a new rehearsal; its folder does not exist yet."""
    now = datetime.now(UTC)
    folder = parent / f"rehearsal-{now:%Y-%m-%dT%H%M%SZ}"
    created = now.isoformat(timespec="seconds")
    return State(folder, site, secrets.token_hex(4), created, Findings())


def find(parent: Path, site: str) -> list[State]:
    """Return the rehearsals of a site in a folder, the latest first."""
    result = []
    for folder in sorted(parent.glob("rehearsal-*"), reverse=True):
        try:
            state = load(folder)
        except ValueError:
            continue
        if state.site == site:
            result.append(state)
    return result
