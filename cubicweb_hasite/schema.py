"""Former eids: which entity took the place of an eid that was replaced."""

from cubicweb import _
from yams.buildobjs import EntityType, Int


class FormerEid(EntityType):
    """an eid that an entity had before its immutable data was edited"""

    # Written by the replacement alone, with security off. Not readable by visitors: it must
    # not tell of an entity that they may not read.
    __permissions__ = {
        "read": ("managers",),
        "add": (),
        "update": (),
        "delete": (),
    }
    former = Int(required=True, unique=True, description=_("eid that the entity had"))
    current = Int(required=True, indexed=True, description=_("eid that the entity has now"))
