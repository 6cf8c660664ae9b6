"""What an edit costs while a cache that is to be purged is down.

Images are given other bytes, one transaction for each, on an instance with PostgreSQL: by a
visitor in a form, over HTTP, as people do; and by a script, which does nothing else. For each
round of edits the option `hasite-purge-urls` is, in turn:

- empty;
- the URL of a cache that is stopped: connections are refused;
- the URL of a cache that hangs: connections are accepted, and never answered.

What is measured is the time from before each edit to after its commit, or to the answer. The
ratios are taken round by round, in one database, so that they hold on a machine that does other
things meanwhile.
"""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

from measure import Row, Sample
from servers.instance import Instance
from servers.support import free_port
from servers.visitor import Visitor, validation
from sites import Bench, create_file, image

TITLES = ("", "no cache", "", "cache down", "ratio", "of", "expected", "")
SIZE = 20_000
EDITS = 100
#: per round
FORM_EDITS = 7

# Run by `cubicweb-ctl shell`, which takes a blank line for nothing.
_SCRIPT = """
import json
import time
from cubicweb import Binary
from cubicweb_hasite.caches import purge

data = {data!r}
images = [
    cnx.create_entity("File", data=Binary(data), data_name="a.png", data_format="image/png").eid
    for _ in range({edits})
]
cnx.commit()
caches = {caches!r}
times = {{name: [] for name in caches}}
config = repo.vreg.config

def edits(number):
    start = time.perf_counter()
    for eid in images:
        changed = data + b"%08d" % number
        cnx.entity_from_eid(eid).cw_set(data=Binary(changed))
        cnx.commit()
    return (time.perf_counter() - start) * 1000 / len(images)

for number in range({rounds} + 1):
    order = list(caches) if number % 2 else list(reversed(caches))
    for name in order:
        config.global_set_option("hasite-purge-urls", caches[name])
        found = edits(number * len(caches) + order.index(name))
        if number:
            times[name].append(found)

queued = {{
    name: sum(purger.queued for purger in purge.purgers(config))
    for name in caches
    if config.global_set_option("hasite-purge-urls", caches[name]) or True
}}
print("RESULT", json.dumps([times, queued]))
"""


def rows(bench: Bench, rounds: int) -> Iterator[Row]:
    """Compare edits with each cache to edits without one: time, as the visitor waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        [instance] = bench.create(purge="hasite,file")
        caches = {
            "none": [],
            "stopped": [f"http://127.0.0.1:{free_port()}/"],
            "hung": [f"http://127.0.0.1:{hung.getsockname()[1]}/"],
        }
        forms = measure_forms(instance, caches, rounds * FORM_EDITS)
        times, queued = measure(instance, caches, rounds)
    for how, found in (("in a form", forms), ("by a script", times)):
        none = Sample(found["none"])
        for name in ("stopped", "hung"):
            edit = Sample(found[name])
            yield Row(
                f"edit {how}, cache {name}, ms",
                stock=none,
                ours=edit,
                ratio=edit.over(none),
                of="cache down / no cache",
            )
    print("Paths in the queue in the end:", ", ".join(f"{k}: {v}" for k, v in queued.items()))


def measure_forms(
    instance: Instance, caches: dict[str, list[str]], edits: int
) -> dict[str, list[float]]:
    """Return what edits of a visitor take, in milliseconds, each cache in turn."""
    times: dict[str, list[float]] = {name: [] for name in caches}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(instance.process(hasite_purge_urls=",".join(urls)))
            for name, urls in caches.items()
        }
        visitors, eids = {}, {}
        for name, process in processes.items():
            visitors[name] = Visitor(process.url)
            visitors[name].login()
            eids[name] = create_file(visitors[name], "a.png", "image/png", image(SIZE))
        for number in range(edits + 1):
            for name in caches if number % 2 else reversed(caches):
                visitor, eid = visitors[name], eids[name]
                form = visitor.form(f"file/{eid}?vid=edition")
                upload = {"data": ("a.png", image(SIZE) + b"%08d" % number, "image/png")}
                response = visitor.submit(form, eid, files=upload, controller="validateform")
                _valid, url, _entity = validation(response)
                eids[name] = int(re.search(r"/file/([0-9]+)", url)[1])
                visitor.get(f"?{urlsplit(url).query}")  # shows the message, and forgets it
                if number:
                    times[name].append(response.elapsed.total_seconds() * 1000)
    return times


def measure(
    instance: Instance, caches: dict[str, list[str]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return what edits take, in milliseconds, and how many paths wait in the end."""
    script = _SCRIPT.format(data=image(SIZE), edits=EDITS, caches=caches, rounds=rounds)
    path = instance.directory / "edits.py"
    path.write_text(script)
    output = instance.ctl("shell", instance.name, str(path))
    result = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if result is None:
        raise RuntimeError(f"the edits failed:\n{output}")
    times, queued = json.loads(result[1])
    return times, queued
