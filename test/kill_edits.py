"""Edit an image again and again, each time killed one step later, until the edit comes to its end.

Run in the environment of an instance without a pool, so that no process inherits a connection.
After each death the database must be as it was before the edit, or as it is after the last one.
Writes how many edits left the image old, and how many made it new.
"""

import os
import signal
import sys

import webtest
from cubicweb import Binary
from cubicweb.cwconfig import CubicWebConfiguration
from cubicweb.pyramid import config_from_cwconfig
from cubicweb.server.repository import Repository
from cubicweb.server.session import Connection
from cubicweb.server.sqlutils import ConnectionWrapper
from graph import graph
from pictures import picture
from servers.support import wait_until

from cubicweb_hasite.images import replacement

# PostgreSQL ends the transaction of a process when it notices that the process is gone.
_TRANSACTIONS = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND xact_start IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def main() -> None:
    config = config_from_cwconfig(CubicWebConfiguration.config_for("site"))
    repo = config.registry["cubicweb.repository"]
    app = webtest.TestApp(config.make_wsgi_app())
    base_url = repo.config["base-url"]
    eid = create(repo)
    app.post(
        f"{base_url}login",
        {
            "__login": "admin",
            "__password": "admin",
            "csrf_token": app.get(f"{base_url}login").forms["loginForm"]["csrf_token"].value,
        },
        headers={"Origin": base_url},
    )
    cookies = list(app.cookiejar)
    old = new = step = 0
    ended = False
    while not ended:
        step += 1
        app.cookiejar.clear()  # they come to hold too much
        for cookie in cookies:
            app.cookiejar.set_cookie(cookie)
        form = app.get(f"{base_url}{eid}?vid=edition").forms["entityForm"]
        form[f"data-subject:{eid}"] = webtest.Upload("a.png", picture("red", size=(step, 9)))
        before, data = read(repo, eid)
        pid = os.fork()
        if not pid:
            kill_at(step, repo)
            form.submit(headers={"Origin": base_url})
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        ended = not os.WIFSIGNALED(status)
        with repo.internal_cnx() as cnx:
            if repo.system_source.dbdriver == "postgres":
                wait_until(lambda cnx=cnx: no_other_transaction(cnx), "end of the transaction")
            current = replacement.current_eid(cnx, eid)
        if current is None:
            assert read(repo, eid) == (before, data), f"step {step}"
            old += 1
        else:
            after, other = read(repo, current, {current: eid})
            assert after == before, f"step {step}"
            assert other == picture("red", size=(step, 9))
            eid = current
            new += 1
    assert current is not None
    print("said:", old, new)


def create(repo: Repository) -> int:
    """Return the eid of a new image, with what hangs on it."""
    with repo.internal_cnx() as cnx:
        image = cnx.create_entity(
            "File", data=Binary(picture("blue")), data_name="a.png", data_format="image/png"
        )
        cnx.create_entity("Comment", content="hello", comments=image)
        cnx.create_entity("Tag", name="tag", tags=image)
        cnx.create_entity("Article", title="article", cover=image)
        cnx.commit()
        return image.eid


def kill_at(step: int, repo: Repository) -> None:
    """Kill this process before a statement of SQL, or before or after a commit: at the nth."""
    left = iter(range(step - 1, -1, -1))

    def point() -> None:
        if not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    doexec, commit = repo.system_source.doexec, ConnectionWrapper.commit

    def killed_doexec(*args, **kwargs):
        point()
        return doexec(*args, **kwargs)

    def killed_commit(self) -> None:
        point()
        commit(self)
        point()

    repo.system_source.doexec = killed_doexec
    ConnectionWrapper.commit = killed_commit


def read(
    repo: Repository, eid: int, renamed: dict[int, int] | None = None
) -> tuple[dict[str, list], bytes]:
    """Return all that the database holds, and the bytes of an image."""
    with repo.internal_cnx() as cnx:
        return graph(cnx, renamed), cnx.entity_from_eid(eid).data.getvalue()


def no_other_transaction(cnx: Connection) -> bool:
    cnx.rollback()  # or it would be shown the same again
    return not cnx.system_sql(_TRANSACTIONS).fetchall()


if __name__ == "__main__":
    sys.exit(main())
