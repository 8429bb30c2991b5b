"""CNI plug-ins against the specification, on the real kernel: Debian's, spoiled ones, and ours on a lab's host."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from felix.__main__ import main
from felix.config.exits import ExitCode
from felix.errors import DataError
from felix.lab import documents
from felix.lab.cni.bench import PREFIX, remove_strays
from felix.lab.cni.conformance import Wish, run_checks
from felix.lab.cni.shape import VERSIONS
from felix.lab.cni.verdict import Report, Verdict
from felix.lab.host import Host
from felix.lab.lab import Lab
from felix.lab.namespace import create_namespaces, delete_namespaces, list_namespaces
from felix.lab.place import wait_until
from felix.lab.store import Json
from felix.plugins.ask import ask
from tests.support.cni_clients import REFERENCE

pytestmark = pytest.mark.fv

_NEWEST_OF_DEBIAN = "1.0.0"
_UNNAMED_VERSION = {(verb, "an error says its version") for verb in ("ADD", "DEL", "CHECK")}
# Of containernetworking-plugins 1.1.1. Their library leaves cniVersion out of errors, and compares CNI_NETNS with the
# plug-in's own namespace only since 1.2; bridge refuses that one by itself, for the interface "exists" already.
_DEVIATIONS = {
    "bridge": _UNNAMED_VERSION,
    "ptp": _UNNAMED_VERSION | {("ADD", "the plug-in's own namespace is refused")},
    "host-local": _UNNAMED_VERSION,
}


def _failed(report: Report) -> list[Verdict]:
    return [verdict for verdict in report.verdicts if verdict.outcome == "fail"]


@pytest.mark.parametrize("plugin", sorted(_DEVIATIONS))
def test_plugin_of_debian_conforms_but_for_what_is_known(plugin: str) -> None:
    report = run_checks(Wish(plugin, is_ipam=plugin == "host-local"), lambda _: None)

    assert report.supported == [version for version in VERSIONS if version != "1.1.0"]
    assert {(one.verb, one.case) for one in _failed(report)} == _DEVIATIONS[plugin]
    skipped = {(one.version, one.seen) for one in report.verdicts if one.outcome == "skip"}
    assert skipped == {("1.1.0", "the plug-in does not list 1.1.0")}
    assert report.count("pass") > 150
    assert list_namespaces(f"{PREFIX}{os.getpid()}.") == []


_SPOILED = {
    "prints more than the result": (
        '[ "$CNI_COMMAND" = ADD ] && echo hello; exec {real}',
        {"succeeds and prints one JSON document", "takes arguments as podman gives them"},
    ),
    "says what is not so": (
        """[ "$CNI_COMMAND" = ADD ] || exec {real}
        {real} | sed 's/10.77/10.78/; s/"mac": "..:/"mac": "00:/'""",
        {"addresses of the result are those of the interface", "MAC address of the result is that of the interface"},
    ),
    "answers in another version and finds everything right": (
        '[ "$CNI_COMMAND" = CHECK ] && exit 0\n[ "$CNI_COMMAND" = ADD ] || exec {real}\n{real} | sed "s/1.0.0/0.4.0/"',
        {
            "result has the shape of its version",
            "fails when the address is not what it was",
            "fails when a route is gone",
            "fails after DEL",
        },
    ),
    "detaches nothing": (
        '[ "$CNI_COMMAND" = DEL ] || exec {real}',
        {"container has no interface afterwards", "DEL without prevResult removes the interface", "fails after DEL"},
    ),
    "detaches only what there is, and talks": (
        'if [ "$CNI_COMMAND" = DEL ]; then echo done; [ -e "$CNI_NETNS" ] || exit 1; fi\nexec {real}',
        {
            "succeeds and prints nothing",
            "a second DEL succeeds",
            "DEL succeeds when the namespace is gone",
            "DEL succeeds without CNI_NETNS",
        },
    ),
    "takes any variables and leaves links": (
        '[ "$CNI_COMMAND" = DEL ] && ip link add type veth\nCNI_CONTAINERID=x CNI_IFNAME=eth0 exec {real}',
        {
            "host has the links, addresses and routes of before",
            "host is as before after all of them",
            "without CNI_IFNAME is refused, which is named",
            "container id 'a/b' is refused",
        },
    ),
}


@pytest.mark.parametrize("how", _SPOILED)
def test_plugin_that_is_spoiled_fails_where_it_is(how: str, tmp_path: Path) -> None:
    script, expected = _SPOILED[how]
    spoiled = tmp_path / "bridge"
    spoiled.write_text(f"#!/bin/sh\n{script.format(real=REFERENCE / 'bridge')}\n")
    spoiled.chmod(0o755)

    report = run_checks(Wish(str(spoiled), versions=[_NEWEST_OF_DEBIAN], settle_s=0), lambda _: None)

    failed = {verdict.case for verdict in _failed(report)}
    assert expected <= failed
    assert list_namespaces(f"{PREFIX}{os.getpid()}.") == []


def test_plugin_that_never_answers_fails_and_ends(tmp_path: Path) -> None:
    stuck = tmp_path / "bridge"
    stuck.write_text(f'#!/bin/sh\n[ "$CNI_COMMAND" = VERSION ] && exec {REFERENCE}/bridge\nexec sleep 60\n')
    stuck.chmod(0o755)

    report = run_checks(Wish(str(stuck), versions=[_NEWEST_OF_DEBIAN], timeout_s=0.2), lambda _: None)

    assert report.count("pass") == 3  # of VERSION
    assert all("has not answered in 0.2 s" in verdict.seen for verdict in _failed(report))
    assert list_namespaces(f"{PREFIX}{os.getpid()}.") == []


def test_namespaces_of_a_check_that_was_killed_go_with_the_next() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine, strays = f"{PREFIX}{os.getpid()}.9", f"{PREFIX}{ended.pid}.host"
    create_namespaces([mine, strays])
    try:
        remove_strays()
        left = list_namespaces(PREFIX)
        assert mine in left
        assert strays not in left
    finally:
        delete_namespaces([mine, strays])


def test_command_prints_verdicts_and_says_by_its_exit_code_that_some_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "net.conflist"
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "ranges": [[{"subnet": "10.78.0.0/24"}]]}
    plugins = [{"type": "ptp", "ipam": ipam}, {"type": "portmap"}]
    config.write_text(json.dumps({"cniVersion": "0.3.1", "name": "n", "plugins": plugins}))
    command = ["lab", "cni-check", "host-local", "--conf", str(config), "--versions", "0.2.0,1.1.0"]

    assert main([*command, "--output", "json"]) == ExitCode.FAILED
    document = json.loads(capsys.readouterr().out)
    assert main([*command, "--quiet"]) == ExitCode.FAILED
    table = capsys.readouterr().out

    failed = [case for case in document["cases"] if case["outcome"] == "fail"]
    assert {(case["verb"], case["case"]) for case in failed} == _UNNAMED_VERSION - {
        ("CHECK", "an error says its version")
    }
    assert document["summary"]["fail"] == len(failed)
    assert {case["version"] for case in document["cases"]} == {"", "0.2.0", "1.1.0"}
    assert table.count("fail  ") == len(failed)
    assert "pass  " not in table
    assert table.endswith("it speaks 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0\n")


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (Wish("nothing-of-that-name"), "no executable 'nothing-of-that-name'"),
        (Wish("macvlan"), "no configuration for macvlan is known here"),
        (Wish("bridge", versions=["2.0.0"]), "version '2.0.0' is not one of the specification"),
        (Wish("bridge", config=Path("/nowhere.conf")), "/nowhere.conf cannot be read as JSON"),
    ],
)
def test_wish_that_cannot_be_met_is_refused(wish: Wish, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        run_checks(wish, lambda _: None)


# --- Ours ---


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One host with an agent that is ready."""
    with Lab(f"cnic{os.getpid()}", tmp_path_factory.mktemp("l")) as lab:
        lab.up(hosts=1, bird=False)
        lab.hosts[0].wait_agent_ready()
        yield lab


@pytest.mark.parametrize("plugin", ["felix-cni", "felix-ipam"])
def test_plugin_of_felix_conforms_in_every_version(plugin: str, lab: Lab) -> None:
    (host,) = lab.hosts
    enforced = _read_enforced(host)

    report = run_checks(Wish(plugin, host=host, is_ipam=plugin == "felix-ipam", settle_s=20.0), lambda _: None)

    assert report.supported == list(VERSIONS)
    assert _failed(report) == []
    assert report.count("skip") == 0
    assert report.count("pass") > 200
    assert _find_given(lab) == []
    wait_until(lambda: _read_enforced(host) == enforced, 20.0, "the firewall to be as before", 0.1)


def test_felix_cni_conforms_with_addresses_of_another_plugin(lab: Lab, tmp_path: Path) -> None:
    (host,) = lab.hosts
    pool: Json = [[{"subnet": "192.168.200.0/24"}]]
    routes: Json = [{"dst": "0.0.0.0/0"}]
    ipam: Json = {"type": "host-local", "dataDir": str(tmp_path / "addresses"), "ranges": pool, "routes": routes}

    report = _check_mix(host, "felix-cni", ipam, tmp_path)

    assert _failed(report) == []
    assert report.count("skip") == 0
    given = [path.name for path in (tmp_path / "addresses").glob("*/192.168.200.*")]
    assert given == []
    assert _find_given(lab) == []


@pytest.mark.parametrize("plugin", ["bridge", "ptp"])
def test_plugin_of_debian_conforms_with_addresses_of_felix(plugin: str, lab: Lab, tmp_path: Path) -> None:
    (host,) = lab.hosts
    pool = documents.resource("IPPool", "mixed", {"cidr": "10.9.0.0/24", "blockSize": 24})
    gateways: Json = ["10.9.0.1/25", "10.9.0.129/25"]
    lab.apply(pool)
    try:
        ipam: Json = {"type": "felix-ipam", "ipv4_pools": ["10.9.0.0/24"], "gateway": gateways}
        report = _check_mix(host, plugin, ipam, tmp_path)
    finally:
        lab.store.delete(documents.key_of(pool))

    # What ptp misses, felix-ipam does: it refuses the plug-in's own namespace.
    assert {(one.verb, one.case) for one in _failed(report)} == _UNNAMED_VERSION
    assert report.count("skip") == 0
    released = ask(str(host.rundir / "felix.sock"), "POST", "/v1/ipam/release", {"handle": "mixed.gateway"})
    assert released == {"released": ["10.9.0.1", "10.9.0.129"]}
    assert _find_given(lab) == []


def _check_mix(host: Host, plugin: str, ipam: Json, directory: Path) -> Report:
    config = directory / f"{plugin}.conf"
    socket = str(host.rundir / "felix.sock")
    config.write_text(json.dumps({"name": "mixed", "type": plugin, "agent_socket": socket, "ipam": ipam}))
    return run_checks(
        Wish(plugin, config=config, host=host, versions=[_NEWEST_OF_DEBIAN], settle_s=20.0), lambda _: None
    )


def _find_given(lab: Lab) -> list[str]:
    """Returns the endpoints, handles and addresses that the lab's etcd has."""
    endpoints = lab.store.list_prefix("/calico/resources/v3/projectcalico.org/workloadendpoints/")
    found = [*endpoints, *lab.store.list_prefix("/calico/ipam/v2/handle/")]
    for key, block in lab.store.list_prefix("/calico/ipam/v2/assignment/").items():
        assert isinstance(block, dict)
        given = block["allocations"]
        assert isinstance(given, list)
        found += [f"{key}: {index}" for index, holder in enumerate(given) if holder is not None]
    return found


def _read_enforced(host: Host) -> str:
    return host.run(["nft", "--stateless", "list", "table", "inet", "felix"]).stdout
