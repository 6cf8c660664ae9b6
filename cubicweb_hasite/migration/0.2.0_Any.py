# ruff: noqa: F821 (names given by CubicWeb to migration scripts)
# Instances that had 0.1.0, the code before the first release.
from cubicweb_hasite.database import eids
from cubicweb_hasite.sessions import table

if "FormerEid" in schema:
    sync_schema_props_perms("FormerEid")
else:
    add_entity_type("FormerEid")
table.create(cnx)
eids.watch(cnx)
commit()
