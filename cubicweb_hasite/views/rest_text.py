"""Former eids in texts in ReStructuredText lead to the entities that had them."""

from importlib.util import find_spec

from cubicweb.cwvreg import CWRegistryStore


def registration_callback(vreg: CWRegistryStore) -> None:
    """Replace CubicWeb's roles, which it has where docutils is installed."""
    if find_spec("docutils"):
        from cubicweb_hasite import rest_roles_web

        rest_roles_web.register()
