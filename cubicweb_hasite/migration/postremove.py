# ruff: noqa: F821 (names given by CubicWeb to migration scripts)
cnx.system_sql("DROP TABLE IF EXISTS hasite_session")
commit()
