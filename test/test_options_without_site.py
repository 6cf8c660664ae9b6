"""All options of the cube are in the environment of commands that know no URL of the site."""

from collections.abc import Callable
from pathlib import Path

import pytest
from servers.instance import Instance
from servers.postgresql import Database
from servers.support import free_port

from cubicweb_hasite import options, site_cubicweb

#: one that is not the default, of each option
VALUES = {
    "hasite-image-max-age": 60,
    "hasite-page-max-age": "index:10,primary:30",
    "hasite-replace-always": "yes",
    "hasite-edit-by-get": "yes",
    "hasite-password-ends-sessions": "no",
    "hasite-probe-deadline": 5.0,
    "hasite-pool-timeout": 5.0,
    "hasite-storage-deadline": 10.0,
    "hasite-s3-bucket": "",
    "hasite-s3-prefix": "mysite/",
    "hasite-s3-attributes": "File.data",
    "hasite-speed-ups": "no",
    **dict.fromkeys(options.REPLACED_SPEED_UPS, "no"),
    "hasite-instance-name": "web1",
    "hasite-purge-urls": "http://127.0.0.1:1/",
    "hasite-standby-hosts": "127.0.0.1:1",
    "hasite-standby-max-lag": 2.0,
    "hasite-standby-max-outage": 60.0,
    "hasite-monitor-access": "token",
    "hasite-monitor-token": "secret",
    "hasite-management-port": free_port(),
    "hasite-management-host": "127.0.0.2",
}

EDIT = """
from cubicweb import Binary
values = dict(data_name="a.png", data_format="image/png")
image = cnx.create_entity("File", data=Binary(b"one"), **values)
cnx.commit()
former = image.eid
image.cw_set(data=Binary(b"two"))
cnx.commit()
rows = cnx.execute("Any C WHERE X former F, X current C, X former %(x)s", {"x": former}).rows
print("replaced", len(rows), "times")
"""


def test_commands(
    server_directory: Callable[[str], Path], new_database: Callable[[], Database]
) -> None:
    """An instance is created, edited and upgraded; caches are told nothing."""
    assert set(VALUES) == {name for name, _definition in site_cubicweb.options}
    instance = Instance(
        server_directory("instance"), ["hasite", "file"], new_database(), options=VALUES
    )
    instance.create()
    assert "replaced 1 times" in instance.shell(EDIT)
    instance.ctl("upgrade", "--force", "--verbosity=0", "--backup-db=n", instance.name)
    wrong = Instance(instance.directory, ["hasite", "file"], instance.database)
    wrong.options["hasite-purge-urls"] = "10.0.0.1:3128"
    with pytest.raises(RuntimeError, match=r"option hasite-purge-urls is '10\.0\.0\.1:3128'"):
        wrong.shell("")
