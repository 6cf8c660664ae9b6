# ruff: noqa: F821  CubicWeb gives the names
import time

add_attribute("News", "summary")
add_cube("tag")
# slow, in transactions that are short: nobody waits
while sql(
    "UPDATE cw_news SET cw_summary = cw_title WHERE cw_eid IN "
    "(SELECT cw_eid FROM cw_news WHERE cw_summary IS NULL LIMIT 500) RETURNING 1"
):
    commit()
    time.sleep(0.1)
