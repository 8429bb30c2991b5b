"""Files for deployment agree with the program: settings load, alerts ask for metrics that exist, the unit is sound."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from felix.config.exits import ExitCode
from felix.config.load import load_file
from felix.config.resolve import resolve
from felix.dns.config import read_config
from felix.obs.metrics import DnsMetrics, Metrics

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
ALERTS = DEPLOY / "prometheus" / "felix-alerts.yaml"


class Alert(msgspec.Struct):
    alert: str
    expr: str
    annotations: dict[str, str]


class Group(msgspec.Struct):
    name: str
    rules: list[Alert]


class Alerts(msgspec.Struct):
    groups: list[Group]


def test_example_settings_are_good() -> None:
    resolved = resolve((load_file(DEPLOY / "felix.cfg"),))
    assert resolved.problems == ()
    assert resolved.notices == ()
    assert resolved.settings.health_enabled


def test_alerts_ask_only_for_metrics_that_exist() -> None:
    alerts = msgspec.convert(yaml.safe_load(ALERTS.read_text(encoding="utf-8")), Alerts)
    exposed = {row.name for row in (*Metrics().rows, *DnsMetrics().rows)}
    for alert in (alert for group in alerts.groups for alert in group.rules):
        for name in re.findall(r"\bfelix_\w+", alert.expr):
            assert name.removesuffix("_bucket") in exposed, alert.alert
        assert "summary" in alert.annotations


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_pass_the_check_of_prometheus() -> None:
    subprocess.run(["promtool", "check", "rules", str(ALERTS)], check=True, capture_output=True, timeout=30)


def test_unit_notifies_is_watched_and_is_not_restarted_for_bad_settings() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(DEPLOY / "systemd" / "felix.service", encoding="utf-8")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["WatchdogSec"] == "60s"
    assert service["RestartPreventExitStatus"] == str(ExitCode.BAD_SETTING.value)
    assert "CAP_NET_ADMIN" in service["CapabilityBoundingSet"]


def test_example_for_net_modules_names_the_plug_in_for_both_roles() -> None:
    libraries = msgspec.json.decode((DEPLOY / "mesos" / "net-modules.json").read_bytes())["libraries"]
    isolator, hook = libraries[0]["modules"]
    assert (isolator["name"], hook["name"]) == (
        "com_mesosphere_mesos_NetworkIsolator",
        "com_mesosphere_mesos_NetworkHook",
    )
    commands = {one["key"]: one["value"] for one in isolator["parameters"]}
    assert commands.keys() == {"ipam_command", "isolator_command"}
    # a command with arguments never activates the module
    assert {Path(command).name for command in commands.values()} == {"felix-mesos"}


def test_example_of_names_is_good() -> None:
    config = read_config((DEPLOY / "dns" / "felix-dns.json").read_bytes(), "felix-dns.json")
    assert config.notices == ()
    assert config.domains == ("mesos", "felix")


def test_unit_of_names_adds_the_address_it_listens_on_and_needs_no_root() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(DEPLOY / "systemd" / "felix-dns.service", encoding="utf-8")
    service = unit["Service"]
    config = read_config((DEPLOY / "dns" / "felix-dns.json").read_bytes(), "felix-dns.json")
    assert f"{config.listeners[0]}/32" in service["ExecStartPre"]
    assert service["RestartPreventExitStatus"] == str(ExitCode.BAD_SETTING.value)
    assert service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
