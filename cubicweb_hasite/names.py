"""Names that Python and the templates of `deploy/` share, each written once.

A copy that differs would let a cache keep or share what it must not. This module imports nothing
of the package, so that everything may import it.
"""

#: paths of the monitors that are not views
LIVEZ, READYZ, METRICS = MONITOR_PATHS = ("/livez", "/readyz", "/metrics")
#: what the names of the monitors at `/view?vid=…` begin with: `monitor_db` and the others
MONITOR_PREFIX = "monitor_"
#: regular expression that the path of a monitor matches, encoded; Pyramid's patterns ignore a line
#: break at the end
MONITOR_PATH = rf"^/({'|'.join(path.removeprefix('/') for path in MONITOR_PATHS)})(%0A)?$"
#: regular expressions, one of which the URL of a monitor matches (path and query string)
MONITOR_URLS = (
    rf"^/+({'|'.join(path.removeprefix('/') for path in MONITOR_PATHS)})(\?|$)",
    rf"[?&]vid={MONITOR_PREFIX}",
)
#: regular expression that a URL of `/view` matches if something in its query may name a monitor in
#: an encoded way
ENCODED_VIEW = r"^[^?]*/view\?(.*&)?([^=&]*%[^=&]*=|vid=[^&]*%)"

#: Caches keep the pages of anonymous visitors under this name, followed by a language and the
#: path that was asked for. It is a name of its own, rather than a header in `Vary`: Squid 5.7
#: with `collapsed_forwarding` forgets all variants of a URL when it asks for another one.
ANONYMOUS = "/_anonymous/"

#: folders that CubicWeb serves to everybody alike (cubicweb_web.views.staticcontrollers)
STATIC_FOLDERS = ("data", "static", "fckeditor")
#: regular expression that the paths below them match
STATIC_PATH = rf"^/({'|'.join(STATIC_FOLDERS)})/"

#: Regular expression (of Python and of PCRE) that cookies of audience measurement begin with,
#: name and `=`. CubicWeb ignores these cookies, so a visitor who sends them is still anonymous.
AUDIENCE_COOKIES = "_ga[_=]|_gid=|_gat[_=]|_gcl_|_pk_|_hj|_fbp=|_clck=|_clsk=|__utm"

#: how pgBackRest calls the database cluster of a site
STANZA = "hasite"
