"""Behind a real Squid: public images are hits, private ones are nobody else's."""

import re

import pytest
from pictures import picture
from servers.instance import Instance
from servers.squid import Squid
from servers.support import free_port
from servers.visitor import Visitor

RED = picture("red")
BLUE = picture("blue")

DOWNLOADS = (
    "/file/{eid}/raw/a.png",
    "/file/{eid}/thumb/a_75x75.png",
    "/file/{eid}?vid=download",
    "/file/{eid}/download",
    "/{eid}/download",
)


def create_image(visitor: Visitor) -> int:
    """Create an image in its form; return its eid."""
    response = visitor.create("File", files={"data": ("a.png", RED, "image/png")})
    return int(re.search(r"/file/(\d+)", response.headers["Location"])[1])


def is_hit(response) -> bool:
    """Return whether Squid answered from its cache."""
    return response.headers["X-Cache"].startswith("HIT")


@pytest.mark.parametrize("template", DOWNLOADS)
def test_public_image(squid: Squid, template: str) -> None:
    admin = Visitor(squid.url)
    admin.login()
    eid = create_image(admin)
    url = template.format(eid=eid)
    # stored when an administrator asks for it, and given to all
    first = admin.get(url)
    assert (first.status_code, is_hit(first)) == (200, False)
    second = Visitor(squid.url).get(url)
    assert (second.status_code, is_hit(second)) == (200, True)
    assert second.content == first.content
    for response in (first, second):
        assert "Set-Cookie" not in response.headers
        assert response.headers["Cache-Control"] == "public, max-age=3600"
    etag = {"If-None-Match": first.headers["ETag"]}
    assert Visitor(squid.url).get(url, headers=etag).status_code == 304

    response = admin.edit(eid, "File", files={"data": ("a.png", BLUE, "image/png")})
    current = int(re.search(r"/file/(\d+)", response.headers["Location"])[1])
    assert current != eid
    visitor = Visitor(squid.url)
    response = visitor.get(template.format(eid=current))
    assert (response.status_code, is_hit(response)) == (200, False)
    assert response.content != first.content
    if "thumb" not in template:
        assert response.content == BLUE
    assert is_hit(visitor.get(template.format(eid=current)))


def test_former_url(squid: Squid) -> None:
    admin, visitor = Visitor(squid.url), Visitor(squid.url)
    admin.login()
    eid = create_image(admin)
    admin.edit(eid, "File", files={"data": ("a.png", BLUE, "image/png")})
    url = f"/file/{eid}/raw/a.png"
    for hit in (False, True):
        response = visitor.get(url)
        assert (response.status_code, is_hit(response)) == (301, hit)
        assert "Set-Cookie" not in response.headers
    assert visitor.get(url, allow_redirects=True).content == BLUE


def test_private_image(closed_instance: Instance, server_directory) -> None:
    """On a site without anonymous access nothing is stored for others."""
    port = free_port()
    squid = Squid(server_directory("squid"), port)
    with closed_instance.process(port, base_url=squid.url), squid:
        admin = Visitor(squid.url)
        admin.login()
        eid = create_image(admin)
        for template in DOWNLOADS:
            url = template.format(eid=eid)
            for _ in range(2):
                response = admin.get(url)
                assert (response.status_code, is_hit(response)) == (200, False)
                assert response.headers["Cache-Control"] == "private, max-age=3600"
                assert "Set-Cookie" not in response.headers
            stranger = Visitor(squid.url).get(url)
            assert stranger.status_code in (303, 403, 404), url
            assert not is_hit(stranger)
            assert stranger.headers["Cache-Control"] == "no-store"
            assert stranger.content not in (RED, response.content)
        # pages neither, whatever CubicWeb says of them
        page = admin.get("/")
        assert "admin" in page.text
        assert Visitor(squid.url).get("/").status_code == 303
