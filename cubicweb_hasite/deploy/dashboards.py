"""Dashboards of Grafana, made from `monitoring/metrics.toml`."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent.parent / "monitoring"


def load_metrics() -> dict[str, dict[str, Any]]:
    """Return what is shown and watched of each program, by the names of the jobs of Prometheus."""
    return tomllib.loads((_FOLDER / "metrics.toml").read_text())


def alerts(metrics: dict[str, Any], sections: Sequence[str]) -> list[dict[str, Any]]:
    """Return the alerts of a program that a site needs.

    :param metrics: the table of the program in metrics.toml, where `with` and `without` name a
        section of the site file
    :param sections: the sections that the site file has
    """
    return [
        alert
        for alert in metrics["alerts"]
        if alert.get("with") in (None, *sections) and alert.get("without") not in sections
    ]


def cubicweb_alerts() -> str:
    """Return the rules of Prometheus for the instances of CubicWeb."""
    return (_FOLDER / "alerts.yml").read_text()


def dashboard(program: str, metrics: dict[str, Any], description: str) -> str:
    """Return a dashboard in Grafana's JSON, with two panels in a row.

    :param metrics: the table of the program in metrics.toml
    """
    panels = [
        {
            "id": index + 1,
            "type": "timeseries",
            "title": panel["title"],
            "description": panel["note"],
            "gridPos": {"x": index % 2 * 12, "y": index // 2 * 8, "w": 12, "h": 8},
            "datasource": {"type": "prometheus", "uid": "hasite"},
            "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
            "targets": [
                {"refId": "ABCD"[number], "expr": query["expr"], "legendFormat": query["legend"]}
                for number, query in enumerate(panel.get("queries", [panel]))
            ],
        }
        for index, panel in enumerate(metrics["panels"])
    ]
    content = {
        "description": description,
        "uid": f"hasite-{program}",
        "title": metrics["title"],
        "tags": ["hasite"],
        "schemaVersion": 38,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "panels": panels,
    }
    return json.dumps(content, indent=2) + "\n"
