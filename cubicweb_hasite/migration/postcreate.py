# ruff: noqa: F821 (names given by CubicWeb to migration scripts)
from cubicweb_hasite.database import eids
from cubicweb_hasite.sessions import table

table.create(cnx)
eids.watch(cnx)
commit()
