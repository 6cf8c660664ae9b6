"""Monitors answer in plain text, above all when things are broken."""

import re
import socket

from editing import EditingTC
from servers.instance import Instance
from servers.visitor import Visitor

MONITORS = ("monitor_pool", "monitor_db", "monitor_version", "monitor_hostname")


def check_headers(response) -> None:
    """Assert what is true of every answer of a monitor."""
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Length"] == str(len(response.body))
    assert "Set-Cookie" not in response.headers
    assert "Vary" not in response.headers


class MonitorTC(EditingTC):
    def read(self, name: str, status: int = 200) -> str:
        response = self.webapp.get(f"/view?vid={name}", status=status)
        check_headers(response)
        return response.text

    def test_head(self) -> None:
        for name in MONITORS:
            get = self.webapp.get(f"/view?vid={name}")
            head = self.webapp.head(f"/view?vid={name}", status=200)
            assert head.body == b""
            for header in ("Content-Type", "Cache-Control", "Content-Length"):
                assert head.headers[header] == get.headers[header]

    def test_hostname(self) -> None:
        assert self.read("monitor_hostname") == socket.gethostname()

    def test_db(self) -> None:
        """It counts all the users, though the anonymous visitor may read himself alone."""
        with self.admin_access.cnx() as cnx:
            self.create_user(cnx, "alice", ("users",))
            cnx.commit()
            [[count]] = cnx.execute("Any COUNT(U) WHERE U is CWUser")
        assert count == 3
        assert self.read("monitor_db") == f"ServiceOK : {count} users in DB"

    def test_version(self) -> None:
        with self.admin_access.cnx() as cnx:
            cubes = self.repo.get_versions()
            assert {"file", "hasite", "tag"} <= set(cubes)
            text = self.read("monitor_version")
            file_system, database = re.fullmatch(
                r"ServiceOK : FS config (.*) == DB config (.*)", text
            ).groups()
            assert file_system == database
            assert file_system.startswith(f"cubicweb: {cubes['cubicweb']} | ")
            assert set(re.findall(r"([a-z_]+): ", file_system)) == set(cubes)

            # it looks afresh at each request
            key = {"k": "system.version.file"}
            cnx.execute('SET P value "0.0.1" WHERE P pkey %(k)s', key)
            cnx.commit()
            text = self.read("monitor_version", 503)
            assert text.startswith("ServiceKO : FS config cubicweb: ")
            assert f"file: {cubes['file']} |" in text.split(" != DB config ")[0]
            assert "file: 0.0.1 |" in text.split(" != DB config ")[1]
            cnx.execute("SET P value %(v)s WHERE P pkey %(k)s", {"v": str(cubes["file"]), **key})
            cnx.commit()
            self.read("monitor_version")

    def test_cube_on_one_side_only(self) -> None:
        with self.admin_access.cnx() as cnx:
            cnx.create_entity("CWProperty", pkey="system.version.gone", value="1.0.0")
            cnx.commit()
            file_system, database = self.read("monitor_version", 503).split(" != DB config ")
            assert "gone: ?" in file_system
            assert "gone: 1.0.0" in database
            # tag is installed, and another cube depends on it
            cnx.execute('DELETE CWProperty P WHERE P pkey "system.version.gone"')
            cnx.execute('DELETE CWProperty P WHERE P pkey "system.version.tag"')
            cnx.commit()
            file_system, database = self.read("monitor_version", 503).split(" != DB config ")
            assert re.search(r"tag: \d", file_system)
            assert "tag: ?" in database
            version = re.search(r"tag: ([0-9.]+)", file_system)[1]
            cnx.create_entity("CWProperty", pkey="system.version.tag", value=version)
            cnx.commit()

    def test_unlimited_pool(self) -> None:
        text = self.read("monitor_pool")
        assert re.fullmatch(r"unlimited pool : \d+ connections in use", text)
        in_use = int(text.split()[3])
        with self.admin_access.cnx():
            text = self.read("monitor_pool")
        assert text == f"unlimited pool : {in_use + 1} connections in use"

    def test_limited_pool(self) -> None:
        in_use = int(self.read("monitor_pool").split()[3])
        cnxsets = self.repo.cnxsets
        maximum, cnxsets.max_size = cnxsets.max_size, 8
        try:
            assert self.read("monitor_pool") == f"{in_use * 12.5:.1f}%"
            with self.admin_access.cnx():
                assert self.read("monitor_pool") == f"{(in_use + 1) * 12.5:.1f}%"
        finally:
            cnxsets.max_size = maximum

    def test_views(self) -> None:
        """The same probes answer as CubicWeb views, for applications that embed them."""
        with self.admin_access.cnx() as cnx:
            gone = cnx.create_entity("CWProperty", pkey="system.version.gone", value="1.0.0")
            cnx.commit()
        try:
            for name in MONITORS:
                with self.subTest(name), self.admin_access.web_request() as req:
                    view = self.vreg["views"].select(name, req, rset=None)
                    view.set_http_cache_headers()
                    status = 503 if name == "monitor_version" else 200
                    if name != "monitor_pool":  # this very connection is in use
                        assert view.render() == self.read(name, status)
                    assert view.content_type == "text/plain"
                    assert not view.templatable
                    assert "no-store" in req.get_response_header("Cache-Control")
        finally:
            with self.admin_access.cnx() as cnx:
                cnx.entity_from_eid(gone.eid).cw_delete()
                cnx.commit()


def test_site_closed_to_anonymous_visitors(closed_instance: Instance) -> None:
    with closed_instance.process() as process:
        visitor = Visitor(process.url)
        assert visitor.get("/").status_code == 303
        for name in MONITORS:
            response = visitor.get(f"/view?vid={name}")
            assert response.status_code == 200, name
            assert response.headers["Cache-Control"] == "no-store"
            assert not response.cookies
        assert visitor.get("/view?vid=monitor_db").text == "ServiceOK : 1 users in DB"
        assert visitor.get("/view?vid=monitor_hostname").text == socket.gethostname()
