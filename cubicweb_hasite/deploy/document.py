"""The commented example of a site file and its reference documentation, from the model."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from cubicweb_hasite.deploy.load import sections
from cubicweb_hasite.deploy.site import Section, Site

_INTRODUCTION = """\
A site of CubicWeb that stays up: two balancers, two web servers of two processors, three database
nodes, a host for their backups, monitoring. `cubicweb-ctl hasite-render site.toml out/` writes the
configuration of all the hosts from it. A part that your site has not, such as [apache], is left
out by leaving its section out. Keys that are commented out show their default."""

# What the example gives; all else is shown with its default.
_EXAMPLE: dict[str, Any] = {
    "hosts": {
        "lb1": {"address": "10.0.0.11", "roles": ["balancer"]},
        "lb2": {"address": "10.0.0.12", "roles": ["balancer"]},
        "web1": {"address": "10.0.0.21", "roles": ["web"], "processors": 2},
        "web2": {"address": "10.0.0.22", "roles": ["web"], "processors": 2},
        "db1": {"address": "10.0.0.31", "roles": ["database"], "memory": 8},
        "db2": {"address": "10.0.0.32", "roles": ["database"], "memory": 8},
        "db3": {"address": "10.0.0.33", "roles": ["database"], "memory": 8},
        "monitor": {"address": "10.0.0.41", "roles": ["monitoring"]},
        "backup": {"address": "10.0.0.61", "roles": ["backup"]},
    },
    "sites": {
        "mysite": {
            "url": "https://www.example.org/",
            "certificate": "/etc/haproxy/certs/www.example.org.pem",
            "options": {"hasite-image-max-age": 31536000},
        }
    },
    "balancer": {},
    "keepalived": {"addresses": ["10.0.0.10/24"], "interface": "eth0"},
    "squid": {},
    "apache": {},
    "instances": {},
    "postgresql": {"synchronous": True, "read_standbys": True},
    "patroni": {},
    "backup": {},
    "prometheus": {},
    "alerts": {
        "mail_to": ["night@example.org"],
        "mail_from": "alerts@example.org",
        "smarthost": "10.0.0.99:25",
        "starttls": False,
    },
    "nagios": {"contact": "admin@example.org"},
    "firewall": {"ssh": ["10.0.0.2"]},
    "upgrade": {"checks": [{"path": "/", "text": "Welcome"}]},
    "preproduction": {"address": "10.0.0.51"},
}


def example() -> str:
    """Return a commented site file, which is valid."""
    lines = [*_comment(_INTRODUCTION)]
    for name, value in _EXAMPLE.items():
        field = Site.model_fields[name]
        [model] = sections(field.annotation)
        lines += ["", *_comment(model.__doc__ or "")]
        if get_origin(field.annotation) is dict:
            for index, (key, table) in enumerate(value.items()):
                lines += [f"[{name}.{key}]", *_table(model, table, explained=index == 0), ""]
            lines.pop()
        else:
            lines += [f"[{name}]", *_table(model, value, explained=True)]
    return "\n".join(lines) + "\n"


def reference() -> str:
    """Return the reference documentation of the site file, in Markdown."""
    lines = [
        "# Reference of the site file",
        "",
        "Made from the model in `cubicweb_hasite/deploy/`; `cubicweb-ctl hasite-init` "
        "prints an example.",
    ]
    for name, field in Site.model_fields.items():
        [model] = sections(field.annotation)
        table_of_tables = get_origin(field.annotation) is dict
        needed = " (required)" if field.is_required() else ""
        title = f"[{name}.<name>]" if table_of_tables else f"[{name}]"
        lines += ["", f"## `{title}`{needed}", "", _text(model.__doc__ or ""), ""]
        lines += ["| key | value | default | |", "|---|---|---|---|"]
        for key, key_field in model.model_fields.items():
            default = "**required**" if key_field.is_required() else f"`{_default(key_field)}`"
            row = (f"`{key}`", _type(model, key), default, _text(key_field.description or ""))
            lines.append("| " + " | ".join(row).replace("`none`", "none") + " |")
    return "\n".join(lines) + "\n"


def _table(model: type[Section], values: Mapping[str, Any], *, explained: bool) -> Iterator[str]:
    for key, field in model.model_fields.items():
        if explained:
            yield from _comment(field.description or "")
        if key in values:
            yield f"{key} = {_toml(values[key])}"
        elif explained:
            yield f"#{key} = {_default(field)}".replace("= none", "= …")


def _default(field: FieldInfo) -> str:
    return "none" if field.default is None else _toml(field.default)


def _type(model: type[Section], key: str) -> str:
    """Return the kind of value of a key, and its limits."""
    schema = model.model_json_schema()["properties"][key]
    schema = schema.get("anyOf", [schema])[0]
    kind = _KINDS[schema["type"]]
    for limit, words in (("minimum", "or more"), ("maximum", "or less")):
        if limit in schema:
            kind += f", {schema[limit]} {words}"
    return kind


_KINDS = {
    "array": "list",
    "boolean": "true or false",
    "integer": "number",
    "object": "table",
    "string": "text",
}


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)  # strings, numbers and booleans are the same in TOML


def _text(docstring: str) -> str:
    return " ".join(docstring.split())


def _comment(docstring: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(_text(docstring), 96)]
