"""Write the report of a rehearsal: `report.md`, and the same as `report.html`."""

import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from rich import filesize

from cubicweb_hasite import versions
from cubicweb_hasite.deploy.load import SiteFile
from cubicweb_hasite.upgrades.console import duration
from cubicweb_hasite.upgrades.production import Plan
from cubicweb_hasite.upgrades.state import State

_TEMPLATES = Path(__file__).parent / "templates"


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
        "size": filesize.decimal,
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
    """Return text without special meaning in Markdown."""
    for character in "\\`*_<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def _context(site_file: SiteFile, state: State) -> dict[str, Any]:
    site, upgrade = site_file.site, state.findings.upgrade
    plan = Plan(site, state) if state.passed else None
    # the start of an instance and its checks, and the time until a balancer notices
    instance = upgrade.start_seconds + upgrade.check_seconds + 5
    count = len(site.instances_of(site=state.site))
    installation = state.findings.packages.install_seconds * len(site.web)
    return {
        "state": state,
        "found": state.findings,
        "site_path": str(site_file.path.absolute()),
        "site_name": site_file.path.name,
        "again": f"cubicweb-ctl hasite-rehearse {site_file.path.name}",
        "anonymise": site.preproduction.anonymise if site.preproduction else None,
        "max_age": site.upgrade.max_age_hours,
        "total": sum(step.seconds for step in state.steps.values()),
        "interruption": duration(upgrade.upgrade_seconds + instance),
        "refused": duration(upgrade.upgrade_seconds + count * instance),
        "plan_time": duration(1.5 * (installation + upgrade.upgrade_seconds + count * instance)),
        "steps": _steps(state),
        "versions": _versions(state) if upgrade.versions_after else [],
        "stages": plan.stages() if plan else [],
        "rollback": plan.rollback() if plan else None,
    }


def _steps(state: State) -> list[dict[str, Any]]:
    found = state.findings
    sizes = {
        "copy": ("dump", found.copy.dump),
        "restore": ("database", found.restore.size),
        "packages": ("packages", found.packages.size),
        "upgrade": ("database", found.upgrade.size),
    }
    parts = {
        "packages": [("installation", found.packages.install_seconds)],
        "upgrade": [
            ("migration", found.upgrade.upgrade_seconds),
            ("start", found.upgrade.start_seconds),
            ("monitors and checks", found.upgrade.check_seconds),
        ],
    }
    rows = []
    for name, step in state.steps.items():
        what, size = sizes.get(name, ("", 0))
        text = f"{what} of {filesize.decimal(size)}" if size else ""
        rows.append({"name": name, "status": step.status, "seconds": step.seconds, "size": text})
        rows += [
            {"name": f"- {part}", "status": "", "seconds": seconds, "size": ""}
            for part, seconds in parts.get(name, [])
            if seconds
        ]
    return rows


def _versions(state: State) -> list[tuple[str, str, str]]:
    found = state.findings.upgrade
    old, new = versions.parse(found.versions_before), versions.parse(found.versions_after)
    return [(cube, old.get(cube, "none"), new.get(cube, "none")) for cube in old | new]
