"""What one process changes after a failover, those of all hosts know within a second."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from installation import Site
from results import Results, Row
from servers.support import wait_until
from traffic import Report

pytestmark = pytest.mark.long

#: within which all instances must know, in seconds
DEADLINE = 1.0

#: asks a host's instances, through its cache, until what they answer is as expected
_POLL = """\
import re, sys, time
from http.client import HTTPConnection

path, expected = sys.argv[1:]
deadline = time.time() + 60
for port in (8081, 8082):
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", f"/{path}", headers={"Host": "www.example.org"})
        response = connection.getresponse()
        said = f"{response.status} {response.read().decode(errors='replace')}"
        if re.search(expected, said, re.S):
            break
        if time.time() > deadline:
            sys.exit(f"port {port}: {said[:300]}")
        time.sleep(0.02)
print("known", time.time())
"""

_CHANGE = """\
import time
cnx.execute({query!r})
commit()
print("committed", time.time())
"""

_GUESTS = 'E read_permission G WHERE E name "File", G name "guests"'


def changed(site: Site, query: str, path: str, expected: str) -> float:
    """Change something on one host; return after how many seconds all instances know.

    :param path: of a page that shows it
    :param expected: regular expression of the page's status and text, then
    """
    hosts = site.with_role("web")
    hosts[0].write("/tmp/change.py", _CHANGE.format(query=query))
    for host in hosts:
        host.write("/tmp/poll.py", _POLL)
    poll = f"python3 /tmp/poll.py '{path}' '{expected}'"
    with ThreadPoolExecutor(len(hosts)) as executor:
        polls = [executor.submit(host.run, poll) for host in hosts]
        said = hosts[0].run("mysite-ctl shell mysite /tmp/change.py")
        assert "committed" in said, said
        known = max(float(re.search(r"known (\S+)", poll.result())[1]) for poll in polls)
    return known - float(re.search(r"committed (\S+)", said)[1])


def test_after_failover(site: Site, results: Results) -> None:
    primary = site.primary()
    primary.power_off()
    wait_until(lambda: site.primary() not in (None, primary), "another primary", timeout=60)
    primary.boot()
    site.wait_until_well()
    image = f"file/{site.images('picture')[0]}/raw/picture.jpg"
    times = {}
    try:
        times["permission"] = changed(site, f"DELETE {_GUESTS}", image, "^(?!200)")
    finally:
        back = changed(site, f"SET {_GUESTS}", image, "^200")
    times["permission given back"] = back
    title = "INSERT CWProperty P: P pkey 'ui.site-title', P value 'After the failover'"
    times["property"] = changed(site, title, "", "After the failover")
    changed(
        site, "DELETE CWProperty P WHERE P pkey 'ui.site-title'", "", "^(?!.*After the failover)"
    )
    row = Row(
        "a permission and a property are changed after a failover",
        f"all instances know within {DEADLINE:g} s",
        Report([]),
        measured=", ".join(f"{name}: {seconds:.2f} s" for name, seconds in times.items()),
    )
    late = [name for name, seconds in times.items() if seconds > DEADLINE]
    if late:
        row.short = f"late: {', '.join(late)}"
    results.add(row)
    assert not late, row.measured
