"""Alerts on symptoms, as far as a cluster of Kubernetes has what they ask for."""

from typing import Any

import yaml

ELSEWHERE = {
    "GatewayDown": "asks a prober from outside: the cluster's, at the way in that it has",
    "CertificateExpires": "of who ends TLS there; cert-manager renews it and has its own",
    "CertificateExpiresSoon": "as the one before",
    "DiskFillsUp": "the cluster's: disks of nodes and volumes are no process of ours",
    "DiskFull": "as the one before",
    "RulesFail": "the cluster's: its Prometheus has rules of others as well",
    "AlertsNotDelivered": "the cluster's: its Alertmanager tells others as well",
    "TooManySeries": "the cluster's: its Prometheus holds the series of others as well",
}
"""What no component installs, and why."""


def needs_exporters(group: str, alert: str) -> bool:
    """Say whether an alert asks what an exporter of a data store says."""
    # CloudNativePG exports the replication of Postgres itself.
    return (
        group == "stores" or alert.startswith("RedisReplica") or alert == "ExporterDown"
    )


def alerts(text: str, *, exporters: bool = False) -> str:
    """Return what of `rules/alerts.yml` is about the platform's own processes.

    :param text: the file.
    :param exporters: those about what exporters say instead, which come with them.
    """
    groups: list[dict[str, Any]] = yaml.safe_load(text)["groups"]
    chosen = [
        {
            **group,
            "rules": [
                rule
                for rule in group["rules"]
                if rule["alert"] not in ELSEWHERE
                and needs_exporters(group["name"], rule["alert"]) is exporters
            ],
        }
        for group in groups
    ]
    return yaml.safe_dump({"groups": [group for group in chosen if group["rules"]]})
