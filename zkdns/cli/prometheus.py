"""`zkdns prometheus`: the metrics of a server, and the alert rules and the dashboard for them."""

from __future__ import annotations

from importlib import resources

import click

from zkdns.cli.api_options import make_client, request_or_exit, server_option
from zkdns.cli.command import Command
from zkdns.cli.options import config_option, fail_usage
from zkdns.cli.streams import write_out

ALERTS, DASHBOARD = "alerts.yaml", "dashboard.json"


@click.command(
    cls=Command,
    examples=(
        ("zkdns prometheus --alerts > zkdns.yaml", "Alert rules, to edit"),
        ("zkdns prometheus --dashboard > zkdns.json", "A dashboard, to import"),
    ),
)
@click.option("--alerts", is_flag=True, help="Print alert rules for Prometheus.")
@click.option("--dashboard", is_flag=True, help="Print a dashboard for Grafana.")
@server_option
@config_option
def prometheus(alerts: bool, dashboard: bool, server: str | None, config_file: str | None) -> None:
    """Print metrics, alert rules or a dashboard.

    Without an option, print the metrics of the server: those that Prometheus scrapes at /metrics. Alert rules
    and dashboard need no server. The exit status is 2 for usage errors, 3 if the server does not respond.
    """
    if alerts and dashboard:
        fail_usage(["--alerts: cannot be combined with --dashboard; remove one of them"])
    if alerts or dashboard:
        if server is not None:
            fail_usage(["--server: cannot be combined with --alerts or --dashboard, which need no server"])
        write_out(packaged_text(ALERTS if alerts else DASHBOARD))
        return
    write_out(request_or_exit(make_client(server, config_file).metrics))


def packaged_text(name: str) -> str:
    """The text of a file of the package `zkdns.telemetry`."""
    return resources.files("zkdns.telemetry").joinpath(name).read_text(encoding="utf-8")
