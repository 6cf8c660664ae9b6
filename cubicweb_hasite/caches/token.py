"""Give a token to visitors of shared pages, whose scripts need one for what is not a GET.

A page from a shared cache sets no cookie, so its visitor has no token against forged requests
(cubicweb.pyramid.csrf) until `cubes.hasite.token.js` asks for one.
"""

from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.request import Request
from pyramid.response import Response

from cubicweb_hasite.caches import policy

#: where the script asks
PATH = "/csrf-token"
SCRIPT = "cubes.hasite.token.js"


def includeme(config: Configurator) -> None:
    """Add the route, and the script to all pages."""
    config.add_route("hasite_csrf_token", PATH)
    config.add_view(csrf_token, route_name="hasite_csrf_token", request_method="GET")
    uiprops = config.registry["cubicweb.config"].uiprops
    script = f"{uiprops.context['datadir_url']}/{SCRIPT}"
    if script not in uiprops["JAVASCRIPTS"]:
        uiprops["JAVASCRIPTS"].append(script)


def csrf_token(request: Request) -> Response:
    """Answer nothing but the cookie of the token, which is the visitor's own."""
    get_csrf_token(request)  # sets the cookie if the visitor has none
    return Response(status=204, headers={"Cache-Control": policy.NO_STORE})
