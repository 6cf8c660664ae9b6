"""A Varnish cache in front of an instance."""

from pathlib import Path

from servers.proxy import Proxy
from servers.support import ServerProcess, find_program

# Varnish's own subroutines, its built-in VCL, run after these where these do not return.
_VCL = """\
vcl 4.1;

backend origin {{
    .host = "127.0.0.1";
    .port = "{origin_port}";
}}

acl purgers {{
    "127.0.0.1";
}}

{extra_vcl}

sub vcl_recv {{
    if (req.method == "PURGE" || req.method == "BAN") {{
        if (client.ip !~ purgers) {{
            return (synth(405));
        }}
        if (req.method == "PURGE") {{
            return (purge);
        }}
        ban("req.url == " + req.url);
        return (synth(200, "Banned"));
    }}
}}

sub vcl_deliver {{
    if (obj.hits > 0) {{
        set resp.http.X-Cache = "HIT";
    }} else {{
        set resp.http.X-Cache = "MISS";
    }}
}}
"""


class Varnish(Proxy):
    """A Varnish that caches in memory what a server of this machine answers.

    Its responses say `HIT` or `MISS` in `X-Cache`. It forgets a URL when this machine sends it a
    request `PURGE` or `BAN` of it.

    :param directory: a directory for its configuration and its state. Run by root, Varnish runs
        as users of its own, who must be able to reach it.
    :param origin_port: TCP port of the server on 127.0.0.1
    :param extra_vcl: VCL to add; its subroutines run before ours of the same names
    :raises RuntimeError: Varnish is not installed.
    """

    def __init__(self, directory: Path, origin_port: int, extra_vcl: str = "") -> None:
        super().__init__(directory, "site.vcl")
        self._configuration = _VCL.format(origin_port=origin_port, extra_vcl=extra_vcl)
        self._process = ServerProcess(
            [
                *(find_program("varnishd", "varnish"), "-F"),
                *("-a", f"127.0.0.1:{self.port}"),
                *("-f", str(self._path)),
                # absolute, or it is a name in /var/lib/varnish
                *("-n", str(directory / "state")),
                *("-s", "malloc,64m"),
                *("-l", "8m"),  # its log in shared memory, 80 MB by default
            ],
            directory / "varnish.log",
        )
