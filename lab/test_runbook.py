"""Chapters 3 to 5 of the runbook, carried out as they are written. The others: chapter 1 by `make
lab`, chapters 2 and 6 in test_operations.py, chapter 5 for lost nodes in test_backup.py.
"""

import re
import time

import pytest
from installation import Site
from results import Results, Row
from servers import runbook
from traffic import Report, Traffic, lost_writes

pytestmark = pytest.mark.long

#: a part of a command, and a host that it is for
_WHERE = {"cubicweb": "web1", "squid": "web1", "apache2": "web1", "keepalived": "lb1", "": "db1"}
#: the step of chapter 1 that loads the rules
_FIREWALL = 10


def test_another_web_server(
    site: Site, traffic: Traffic, results: Results, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Chapter 3: it is added, serves, and is taken away again."""
    text = (site.lab.folder / "site.toml").read_text()
    [second] = re.findall(r"(?ms)^\[hosts\.web2\]\n.*?\n\n", text)
    third = second.replace("web2", "web3").replace("10.0.0.22", "10.0.0.23")
    path = tmp_path_factory.mktemp("larger") / "site.toml"
    path.write_text(text.replace(second, second + third))
    traffic.run(3)
    started = time.monotonic()
    larger = Site.render(site.lab, path)
    new = larger.lab["web3"]
    new.boot()
    larger.let_in(new)
    larger.give_files()
    for block in runbook.blocks(larger.runbook, 1):
        if block.step == 1:
            larger.administrator.carry_out(block, only=[new.name])
        elif block.step in (2, _FIREWALL):
            larger.administrator.carry_out(block)
    for step in range(3, 8):
        if step == 4:
            for block in runbook.blocks(larger.runbook, 1):
                if 3 <= block.step <= 7:
                    larger.administrator.carry_out(block, only=[new.name])
        _carry_out(larger, 3, step)
    larger.wait_until_well()
    added = time.monotonic() - started
    traffic.run(8)
    served = [o for o in traffic.report().outcomes if o.served_by.startswith("web3")]

    _carry_out(larger, 3, 0)
    smaller = Site.render(site.lab)
    smaller.give_files()
    _carry_out(smaller, 1, 2)
    _carry_out(smaller, 1, _FIREWALL)
    for step in (3, 5, 6, 7):
        _carry_out(larger, 3, step)
    new.power_off()
    del site.lab.hosts["web3"]
    site.wait_until_well()
    traffic.run(5)
    report = traffic.report()
    lost = lost_writes(site, report)
    results.add(
        Row(
            "a web server is added by the runbook, and taken away again",
            "0 failed requests, 0 sessions lost; the new one serves visitors",
            report,
            lost=len(lost),
            measured=f"added in {added:.0f} s, and gave {len(served)} answers",
        )
    )
    assert served
    assert report.count > 200, report.details()
    assert not report.failed, report.details()
    assert lost == []


def _carry_out(site: Site, chapter: int, step: int) -> None:
    for block in runbook.blocks(site.runbook, chapter):
        if block.step == step:
            site.administrator.carry_out(block)


def test_commands_of_losses(site: Site) -> None:
    """Chapter 4: each command that it tells to run exists, on the hosts that have its program."""
    text = runbook.chapter(site.runbook, 4)
    standby = next(host for host in site.with_role("database") if host is not site.primary())
    commands = [
        words
        for words in re.findall(r"`([^`]+)`", text)
        if re.match(r"(\w+=\S+ )?(journalctl|patronictl|etcdctl|systemctl|su) ", words)
    ]
    assert len(commands) >= 7
    for command in commands:
        where = next(host for program, host in _WHERE.items() if program in command)
        site.lab[where].run(command.replace("@N", "@1").replace("NODE", standby.name))
    site.wait_until_well()


def test_restored_backup(site: Site, results: Results) -> None:
    """Chapter 5, by hand: what came after the moment is gone, its eids too."""
    before = site.sql("SELECT count(*) FROM cw_file")
    site.administrator.words["MOMENT"] = site.sql("SELECT now() AT TIME ZONE 'UTC'") + "+00"
    time.sleep(1)
    first = site.with_role("web")[0]
    first.write(
        "/tmp/later.py",
        "from cubicweb import Binary\n"
        "new = create_entity('File', title='later', data=Binary(b'x'), data_name='x.txt')\n"
        "commit()\nprint('eid', new.eid)\n",
    )
    lost = int(re.search(r"eid (\d+)", first.run("mysite-ctl shell mysite /tmp/later.py"))[1])
    started = time.monotonic()
    for block in runbook.blocks(site.runbook, 5):
        if block.step:  # what is before is for nodes that are lost
            site.administrator.carry_out(block)
    site.wait_until_well()
    seconds = time.monotonic() - started
    for host in site.with_role("database"):
        host.run("rm -r /var/lib/postgresql/15/hasite.20*")
    results.add(
        Row(
            "a backup is restored by the runbook",
            "what was there at the moment is there; no eid is given out twice",
            Report(),
            measured=f"all in service, standbys too, {seconds:.0f} s after the first command",
        )
    )
    assert site.sql("SELECT count(*) FROM cw_file") == before
    assert "later" not in site.sql("SELECT cw_title FROM cw_file")
    said = first.run("mysite-ctl shell mysite /tmp/later.py")
    assert int(re.search(r"eid (\d+)", said)[1]) > lost
