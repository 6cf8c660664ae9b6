"""The views of a site without the coherence part, which the comparison `coherence` is made with.

CubicWeb loads this file as the views of an instance, before the cube sets requests up.
"""

from cubicweb.cwvreg import CWRegistryStore
from cubicweb.server.hook import Hook
from cubicweb_hasite.coherence import listener, users
from cubicweb_hasite.hooks import coherence
from cubicweb_hasite.sessions import cookie

listener.start = lambda repo, lost: None
users.includeme = cookie.includeme = lambda config: None


def registration_callback(vreg: CWRegistryStore) -> None:
    """Take the hooks away that send notices."""
    for each in vars(coherence).values():
        if isinstance(each, type) and issubclass(each, Hook) and each is not Hook:
            vreg.unregister(each)
