"""What the repository of the backups holds, and whether a moment is in it."""

import json
from datetime import UTC, datetime
from typing import Any

from cubicweb_hasite.upgrades import Refused

#: in place of a moment: all that is in the archive
LATEST = "latest"

# pgBackRest's src/command/info/info.c, INFO_STANZA_STATUS_CODE_*; 99 is any other error
_OK, _NO_BACKUP, _UNREADABLE = 0, 2, 99
_NO_STANZA = (1, 3)


def moment(text: str, now: datetime) -> datetime | None:
    """Return the moment that a user gives, None for the last one.

    :param text: such as `2026-11-25 14:03:00`, in the time zone of this machine if it names none
    :raises Refused: it is none, or has not come yet.
    """
    if text == LATEST:
        return None
    try:
        given = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise Refused(
            f'{text!r} is no moment; give one such as --to "2026-11-25 14:03:00", in the time '
            f"zone of this machine, or --to {LATEST}"
        ) from None
    if given > now:
        raise Refused(f"{show(given)} has not come yet; give a moment before {show(now)}")
    return given


def oldest(output: str) -> datetime:
    """Return the end of the oldest backup, from which on any moment can be restored.

    :param output: what `pgbackrest --output=json info` prints for one stanza
    :raises Refused: the repository cannot be read, or holds no backup.
    """
    try:
        [stanza] = json.loads(output, strict=False)
        code = stanza["status"]["code"]
        ends = [backup["timestamp"]["stop"] for backup in stanza["backup"]]
    except (KeyError, TypeError, ValueError):
        raise Refused("pgbackrest info prints no list of backups", output) from None
    if code == _UNREADABLE:
        raise Refused(
            "the backups cannot be read: is their passphrase right, is their disk there?",
            "\n".join(_messages(stanza)),
        )
    if code in _NO_STANZA:
        raise Refused("there are no backups yet: chapter 1, step 4 of the runbook")
    if code == _NO_BACKUP or not ends:
        raise Refused("there is no backup yet: systemctl start hasite-backup, on the backup host")
    if code != _OK:
        raise Refused(f"the backups are not well: {stanza['status'].get('message', code)}")
    return datetime.fromtimestamp(min(ends), UTC)


def _messages(stanza: dict[str, Any]) -> list[str]:
    """Return the first line of each message of pgBackRest.

    With a wrong passphrase the others hold what it has made of the files, line breaks included.
    """
    found = [repo.get("status", {}).get("message", "") for repo in stanza.get("repo", [])]
    return [text.splitlines()[0] for text in found if text]


def check(given: datetime | None, output: str) -> None:
    """Check that a moment is in the repository.

    :param output: what `pgbackrest --output=json info` prints
    :raises Refused: it is not.
    """
    first = oldest(output)
    if given is not None and given < first:
        raise Refused(
            f"{show(given)} is before the end of the oldest backup; give a moment since "
            f"{show(first)}"
        )


def show(when: datetime) -> str:
    """Return a moment as people read it here, with the time zone."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def target(when: datetime) -> str:
    """Return a moment as PostgreSQL reads it, in UTC (`recovery_target_time`)."""
    text = when.astimezone(UTC).isoformat(" ")
    return text.replace("+00:00", "+00")
