"""The error for an edit of an entity that another user has changed meanwhile."""

from cubicweb import ValidationError

# translated by the catalogs of cubicweb-web
_CHANGED_MEANWHILE = (
    "Entity %(eid)s has changed since you started to edit it."
    " Reload the page and reapply your changes."
)


def changed_meanwhile(eid: int) -> ValidationError:
    """Return CubicWeb's own error for a concurrent edit of the entity `eid`.

    See `check_concurrent_edition` in cubicweb_web/views/editcontroller.py.
    """
    return ValidationError(eid, {None: _CHANGED_MEANWHILE}, {"eid": eid})
