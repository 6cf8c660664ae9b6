"""Put pictures in the demonstration instance and serve it."""

import contextlib
import json
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pictures
import waitress
from cubicweb import Binary
from cubicweb.pyramid import wsgi_application
from cubicweb.server.session import Connection
from instance import NAME, Instance

TITLE = "cubicweb-hasite"


def serve(
    instance: Instance,
    sockets: list[socket.socket],
    wanted: list[pictures.Picture] | None,
    ready: Callable[[int, int | None], None],
) -> None:
    """Serve the instance until it is interrupted, as `cubicweb-ctl start` does.

    The environment must be the instance's since before this module was imported.

    :param sockets: they listen already
    :param wanted: pictures to put in it; None: draw some if it holds none
    :param ready: called once with the number of pictures added and the eid of one to show
    """
    with (
        instance.log.open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        application = wsgi_application(NAME)
        repository = application.application.registry["cubicweb.repository"]
        try:
            with repository.internal_cnx() as cnx:
                _give_title(cnx)
                if wanted is None and not cnx.execute("Any X LIMIT 1 WHERE X is File"):
                    wanted = pictures.drawn()
                added = _add(cnx, wanted or (), instance.site / "added.json")
                shown = _one(cnx)
            server = waitress.create_server(
                application, sockets=sockets, clear_untrusted_proxy_headers=True
            )
            with contextlib.suppress(KeyboardInterrupt):
                with contextlib.redirect_stdout(sys.__stdout__):
                    ready(added, shown)
                server.run()  # returns when it is interrupted
        finally:
            repository.shutdown()


def _give_title(cnx: Connection) -> None:
    if not cnx.execute("Any P WHERE P is CWProperty, P pkey 'ui.site-title'"):
        cnx.create_entity("CWProperty", pkey="ui.site-title", value=TITLE)
        cnx.commit()


def _add(cnx: Connection, wanted: Iterable[pictures.Picture], record: Path) -> int:
    """Add pictures to the site, and return how many.

    Neither those whose name is there, nor those that were added once: a picture that the user
    replaced or deleted does not come back.

    :param record: the file that keeps the names of those that were added
    """
    known = set(json.loads(record.read_text())) if record.exists() else set()
    known.update(name for (name,) in cnx.execute("Any N WHERE X is File, X data_name N"))
    added = 0
    for picture in wanted:
        if picture.name not in known:
            cnx.create_entity(
                "File",
                title=picture.title,
                data=Binary(picture.read()),
                data_name=picture.name,
                data_format=picture.media_type,
            )
            known.add(picture.name)
            added += 1
            if added % 20 == 0:  # the data is in memory until then
                cnx.commit()
    cnx.commit()
    if added:
        new = record.with_suffix(".new")
        new.write_text(json.dumps(sorted(known), indent=0))
        new.replace(record)
    return added


def _one(cnx: Connection) -> int | None:
    """Return the eid of the oldest picture."""
    rows = cnx.execute(
        "Any X ORDERBY D LIMIT 1 WHERE X is File, X creation_date D, X data_format ~= 'image/%'"
    )
    return rows[0][0] if rows else None
