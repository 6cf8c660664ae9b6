"""The base of the test cases that call CubicWeb in the tests' own process."""

import backend
from cubicweb_web.devtools.testlib import (
    PyramidWebCWTC,
    WebApptestConfiguration,
    WebPostgresApptestConfiguration,
)

_Configuration = WebPostgresApptestConfiguration if backend.POSTGRES else WebApptestConfiguration


class HasiteConfiguration(_Configuration):
    """Configuration of an instance of the test application, in the home of all the tests."""

    def __init__(self, appid: str, test_module_file: str) -> None:
        home = backend.home()
        super().__init__(home.name, str(home.parent / "tests.py"))


class HasiteTC(PyramidWebCWTC):
    """Test case on the test application, with the settings of CubicWeb's own `pyramid.ini`.

    `self.webapp` is its WSGI application in webtest's clothes.
    """

    configcls = HasiteConfiguration
    settings = {
        "cubicweb.includes": [
            "cubicweb.pyramid.auth",
            "cubicweb.pyramid.default_session",
            "cubicweb.pyramid.rest_api.include_html",
            "cubicweb.pyramid.rest_api.include_rdf",
            "cubicweb.pyramid.rest_api.include_download",
        ]
    }
