"""Configurations in deploy/cni and in the documents are ones that the plug-ins take."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from felix.attach.types import AttachRequest
from felix.plugins.cni.call import Call
from felix.plugins.cni.conf import check_version, parse_conf, refuse_unsupported
from felix.plugins.cni.ipam.plan import parse_gateways
from felix.plugins.cni.request import attach_body

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "deploy" / "cni").iterdir())
DOCUMENT = ROOT / "docs" / "cni.md"


def _ours(path: Path) -> dict[str, Any]:
    """The configuration of our plug-in, as a runtime hands it over."""
    document = json.loads(path.read_text())
    plugins = document.get("plugins", [document])
    one = next(each for each in plugins if each["type"] == "felix-cni" or each["ipam"]["type"] == "felix-ipam")
    return {**one, "name": document["name"], "cniVersion": document["cniVersion"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_configuration_that_the_agent_understands(path: Path) -> None:
    conf = parse_conf(json.dumps(_ours(path)).encode())
    check_version(conf)
    refuse_unsupported(conf)
    assert conf.has_own_ipam
    assert conf.timeout_s > 0
    parse_gateways(conf.ipam)
    call = Call({"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/c1"})
    msgspec.convert(attach_body(call, conf, []), AttachRequest)


def test_mesos_example_is_a_single_plugin_of_a_version_whose_answer_mesos_reads() -> None:
    document = json.loads((ROOT / "deploy" / "cni" / "mesos-felix.conf").read_text())
    assert document["cniVersion"] in {"0.1.0", "0.2.0"}
    assert "plugins" not in document


def test_document_names_every_key_that_the_plugins_read() -> None:
    """Whoever adds a setting, or drops one, finds the document here."""
    text = DOCUMENT.read_text()
    folder = ROOT / "felix" / "plugins" / "cni"
    sources = "".join(path.read_text() for path in folder.rglob("*.py"))
    read = set(re.findall(r'take(?:_\w+)?\((?:conf\.fields|self\.fields|conf\.ipam|ipam), "([^"]+)"', sources))
    missing = [key for key in sorted(read - {"ipam", "runtimeConfig", "args"}) if key not in text]
    assert len(read) > 15
    assert missing == []
