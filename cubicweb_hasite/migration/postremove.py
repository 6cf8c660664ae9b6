# ruff: noqa: F821 (names given by CubicWeb to migration scripts)
from cubicweb_hasite.database import eids

cnx.system_sql("DROP TABLE IF EXISTS hasite_session")
eids.unwatch(cnx)
commit()
