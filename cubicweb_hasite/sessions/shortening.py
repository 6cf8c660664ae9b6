"""What is forgotten of a session that is too long, and in which order."""

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: the key of the login: without it the visitor is logged out (cubicweb.pyramid.auth)
LOGIN = "authentication_ticket"

#: what the keys of messages are like (cubicweb.utils.make_uid)
_UID = re.compile("[0-9a-f]{32}")


def is_message(key: str, value: Any) -> bool:
    """Return whether an item of a session is a message for a page that was not shown yet."""
    return isinstance(value, str) and _UID.fullmatch(key) is not None


def oldest_first(items: Mapping[str, Any]) -> list[str]:
    """Return the keys of what may be forgotten: messages, then pages and forms, then the rest."""

    def rank(key: str) -> int:
        return 0 if is_message(key, items[key]) else 1 if isinstance(items[key], dict) else 2

    return sorted((key for key in items if key != LOGIN), key=rank)


def shortened(
    items: Mapping[str, Any], oldest: Sequence[str], pack: Callable[[dict[str, Any]], Any]
) -> Any:
    """Return items as `pack` returns them, without as many of the oldest as is needed.

    :param pack: raises :class:`ValueError` if it is too much
    :return: None if it is too much without all the oldest, too
    """

    def attempt(forgotten: int) -> Any:
        without = set(oldest[:forgotten])
        try:
            return pack({key: value for key, value in items.items() if key not in without})
        except ValueError:
            return None

    whole = attempt(0)
    if whole is not None or not oldest:
        return whole
    numbers = range(len(oldest))
    return attempt(bisect_left(numbers, True, key=lambda number: attempt(number) is not None))
