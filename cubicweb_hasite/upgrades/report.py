"""What a rehearsal has shown: `report.md`, and the same as `report.html`."""

import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.upgrades.console import duration, size
from cubicweb_hasite.upgrades.production import Plan
from cubicweb_hasite.upgrades.state import State

_TEMPLATES = Path(__file__).parent / "templates"
_SIZES = {"copy": "dump", "restore": "restored", "packages": "wheels", "upgrade": "upgraded_size"}


def write(site_file: SiteFile, state: State) -> None:
    """Write both files into the folder of a rehearsal.

    :raises OSError: the folder cannot be written to.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "duration": duration,
        "size": size,
        "time": lambda text: f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC",
        "text": _text,
        "cell": lambda text: _text(text).replace("|", "\\|"),
        "indented": lambda text: textwrap.indent(text, "    "),
    }
    markdown = environment.get_template("report.md").render(**_context(site_file, state))
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    title = f"Rehearsal of {state.site}, {state.created[:10]}"
    page = environment.get_template("page.html").render(title=title, body=body)
    (state.folder / "report.md").write_text(markdown)
    (state.folder / "report.html").write_text(page)


def _text(text: str) -> str:
    """Return text that Markdown takes as it is."""
    for character in "\\`*_<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def _context(site_file: SiteFile, state: State) -> dict[str, Any]:
    site, fact = site_file.site, state.fact
    stages = Plan(site, state).stages() if state.verdict in ("rolling", "stopped") else []
    upgrade = fact("upgrade_seconds", 0)
    # what the start of an instance and its checks, and what a balancer notices, take
    instance = fact("start_seconds", 0) + fact("check_seconds", 0) + 5
    count = len(site.instances_of(site=state.site))
    installation = fact("install_seconds", 0) * len(site.web)
    return {
        "state": state,
        "site_path": str(site_file.path.absolute()),
        "site_name": site_file.path.name,
        "again": f"cubicweb-ctl hasite-rehearse {site_file.path.name}",
        "anonymise": site.preproduction.anonymise if site.preproduction else None,
        "max_age": site.upgrade.max_age_hours,
        "total": sum(step.seconds for step in state.steps.values()),
        "interruption": duration(upgrade + instance),
        "plan_time": duration(1.5 * (installation + upgrade + count * instance)),
        "steps": _steps(state),
        "versions": _versions(fact("versions_before", ""), fact("versions_after", "")),
        "against": fact("against_rolling", []),
        "visits": fact("visits", {"count": 0, "slowest": 0, "failures": []}),
        "locks": fact("locks", []),
        "changes": fact("changes", []),
        "stages": stages,
        "way_back": Plan(site, state).way_back() if stages else None,
    }


def _steps(state: State) -> list[dict[str, Any]]:
    rows = []
    for name, step in state.steps.items():
        count = step.facts.get(_SIZES.get(name, ""))
        of = {"copy": "dump of ", "restore": "database of ", "packages": "packages of "}
        text = f"{of.get(name, 'database of ')}{size(count)}" if count else ""
        rows.append({"name": name, "status": step.status, "seconds": step.seconds, "size": text})
        labels = {"upgrade_seconds": "migration", "start_seconds": "start"}
        labels |= {"check_seconds": "monitors and checks", "install_seconds": "installation"}
        for fact, label in labels.items():
            if fact in step.facts:
                row = {"name": f"- {label}", "status": "", "seconds": step.facts[fact]}
                rows.append({**row, "size": ""})
    return rows


def _versions(before: str, after: str) -> list[tuple[str, str, str]]:
    old, new = (
        dict(part.split(": ", 1) for part in text.split(" | ") if ": " in part)
        for text in (before, after)
    )
    return [(cube, old.get(cube, "none"), new.get(cube, "none")) for cube in old | new]
