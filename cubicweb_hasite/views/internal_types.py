"""The types that the cube keeps for itself: not offered to users, nor edited by hand."""

from typing import Any

from cubicweb import Unauthorized
from cubicweb.cwvreg import CWRegistryStore
from cubicweb.predicates import is_instance
from cubicweb_web.request import CubicWebRequestBase
from cubicweb_web.views import editforms, uicfg
from logilab.common.registry import objectify_predicate, yes

#: written by the cube alone
INTERNAL_TYPES = ("FormerEid",)


@objectify_predicate
def asks_for_internal_type(_cls: type, req: CubicWebRequestBase, **kwargs: Any) -> int:
    """Select if the entity type that is asked for is one of the cube's.

    `specified_etype_implements` (cubicweb/predicates.py) does not select types that nobody may
    add. CubicWeb would then answer 200 and the home page.
    """
    etype = str(kwargs.get("etype") or req.form.get("etype") or "").lower()
    return int(etype in {internal.lower() for internal in INTERNAL_TYPES})


class _Refused:
    """A form that is refused, and not only what is sent with it, as `__permissions__` would do."""

    def call(self, **_kwargs: Any) -> None:
        """Refuse.

        :raises Unauthorized: always.
        """
        raise Unauthorized(", ".join(INTERNAL_TYPES))

    cell_call = call


class NoCreation(_Refused, editforms.CreationFormView):
    """The creation form."""

    __select__ = asks_for_internal_type() & yes()


class NoEdition(_Refused, editforms.EditionFormView):
    """The edition form."""

    __select__ = editforms.EditionFormView.__select__ & is_instance(*INTERNAL_TYPES)


class NoCopy(_Refused, editforms.CopyFormView):
    """The creation form that is filled with what another entity has."""

    __select__ = editforms.CopyFormView.__select__ & is_instance(*INTERNAL_TYPES)


class NoEditionOfSeveral(_Refused, editforms.TableEditFormView):
    """The edition form of several entities."""

    __select__ = editforms.TableEditFormView.__select__ & is_instance(*INTERNAL_TYPES)


class NoDeletion(_Refused, editforms.DeleteConfFormView):
    """The form that asks before a deletion."""

    __select__ = editforms.DeleteConfFormView.__select__ & is_instance(*INTERNAL_TYPES)


def registration_callback(vreg: CWRegistryStore) -> None:
    """Register the views; take the types out of the list of types of the home page."""
    vreg.register_all(globals().values(), __name__)
    for etype in INTERNAL_TYPES:
        uicfg.indexview_etype_section[etype] = "subobject"
